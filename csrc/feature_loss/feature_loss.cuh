// Kernel of the feature loss: all layers in one launch, values and gradients in one pass. Elementwise, so a sample is a
// vector whatever its layout. A block takes one chunk of one sample of one layer; the last block of a sample's
// layer sums its chunks, the last layer of a sample its losses.
//
// Bound by memory: 2 inputs read and 1 output written an element, against 5 to 40 instructions. Targets on every
// architecture: at most 128 registers, for 2 blocks (512 threads) an SM; each thread has 8 loads of 16 bytes in flight
// before it uses the first, together at least 64 KB per SM, where an H200 needs about 25 KB to saturate its memory.
// Shared memory: under 100 bytes.
#pragma once

#include "../common/cuda_element.cuh"
#include "../common/distance.h"
#include "../common/last_block.cuh"
#include "../common/vec.cuh"
#include "../common/wanted.h"

namespace perceptual_ops {

constexpr int kLossThreads = 256;
constexpr int kLossLoads = 4;   // of x, and as many of y, in flight per thread
constexpr int kLossRounds = 2;  // of these loads: two hide the cost of the block reduction
constexpr int kLossBlocks = 2;  // an SM
constexpr int kTableLayers = 32;

// Elements of a block: short fp32 sums, few slots.
template <class T>
constexpr int64_t kLossChunk = kLossRounds * kLossLoads * kLossThreads * kPackWidth<T>;

template <class T>
struct LossLayer {
  const T* x;        // (N, E)
  const T* y;        // (N or 1, E)
  T* dx;             // (N, E)
  int64_t size;      // E
  int64_t stride_x;  // elements from sample to sample
  int64_t stride_y;  // elements; 0 where one sample stands for all
  DeviceAccumulator<T> scale, weight;
  uint32_t first_block, chunks;  // its first block in the grid; blocks a sample
  bool packed;                   // every sample of x, y and dx begins at a multiple of 16 bytes
};

// A kernel parameter: the constant bank serves all threads of a block at once.
template <class T>
struct LossTable {
  LossLayer<T> layers[kTableLayers];
  uint32_t count, batch;
  uint32_t first_layer;              // layers in earlier launches
  DeviceAccumulator<T>* partial;     // (blocks) of this launch
  uint32_t* arrivals;                // (L + 1, N): chunks of a layer's samples; layers of the samples, of all launches
  DeviceAccumulator<T>* values;      // (L, N)
  DeviceAccumulator<T>* loss;        // (N)
  const DeviceAccumulator<T>* grad;  // (N) or null
};
static_assert(sizeof(LossTable<double>) <= 4096, "a kernel has 4 KB of parameters");

// The sum of distances over the elements from `begin` to `end`, kWidth in one access, and their gradient.
template <int kWidth, Distance kDistance, Wanted kWanted, class T, class Acc>
__device__ __forceinline__ Acc loss_walk(const T* x, const T* y, T* dx, int begin, int end, Acc parameter, Acc factor) {
  Acc sum = 0;
  for (int first = begin + threadIdx.x * kWidth; first < end; first += kLossLoads * kLossThreads * kWidth) {
    Pack<T, kWidth> xs[kLossLoads], ys[kLossLoads];
    // Load.
#pragma unroll
    for (int j = 0; j < kLossLoads; ++j) {
      // Out of bounds, the last elements again: without branches, here and at their use, all loads are issued together.
      const int i = min(first + j * kLossThreads * kWidth, end - kWidth);
      xs[j] = load_pack<T, kWidth>(x + i);
      ys[j] = load_pack<T, kWidth>(y + i);
    }
    // Compute, store.
#pragma unroll
    for (int j = 0; j < kLossLoads; ++j) {
      const int i = first + j * kLossThreads * kWidth;
      const bool inside = i < end;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const auto point = distance_at<kDistance>(widen(xs[j].values[k]) - widen(ys[j].values[k]), parameter);
        if constexpr (kWantsValue<kWanted>) sum += inside ? point.value : Acc(0);
        if constexpr (kWantsGradient<kWanted>) xs[j].values[k] = narrow<T>(factor * point.slope);
      }
      if (kWantsGradient<kWanted> && inside) store_pack(dx + i, xs[j]);
    }
  }
  return sum;
}

// Reduces over the blocks of a launch: `value` of each thread, of one chunk of sample `n` of a layer.
template <class T>
__device__ __forceinline__ void finish_loss(const LossTable<T>& table, uint32_t l, uint32_t n, uint32_t chunk,
                                            DeviceAccumulator<T> value) {
  using Acc = DeviceAccumulator<T>;
  const LossLayer<T>& layer = table.layers[l];
  Acc* slots = table.partial + layer.first_block + n * layer.chunks;
  const int64_t place = int64_t(table.first_layer + l) * table.batch + n;
  Acc sum;
  // The counters of the samples come first: (1, N), then (L, N).
  if (!ends_sum<kLossThreads>(value, chunk, layer.chunks, slots, table.arrivals + table.batch + place, sum)) return;
  if (threadIdx.x == 0) table.values[place] = layer.scale * sum;
  if (!arrives_last(table.arrivals + n, table.first_layer + table.count) || threadIdx.x != 0) return;
  Acc loss = table.first_layer > 0 ? table.loss[n] : Acc(0);
  for (uint32_t i = 0; i < table.count; ++i) {
    loss += table.layers[i].weight * table.values[int64_t(table.first_layer + i) * table.batch + n];
  }
  table.loss[n] = loss;
}

// Grid: the layers one after the other, N * chunks blocks each, chunks innermost; under 2^31 (feature_loss.cu checks):
// a 64-bit division would be a call that spills.
template <class T, Distance kDistance, Wanted kWanted>
__global__ void __launch_bounds__(kLossThreads, kLossBlocks)
    feature_loss_kernel(const LossTable<T> table, DeviceAccumulator<T> parameter) {
  using Acc = DeviceAccumulator<T>;
  uint32_t l = 0;
  while (l + 1 < table.count && table.layers[l + 1].first_block <= blockIdx.x) ++l;
  const LossLayer<T>& layer = table.layers[l];
  const uint32_t n = (blockIdx.x - layer.first_block) / layer.chunks;
  const uint32_t chunk = (blockIdx.x - layer.first_block) % layer.chunks;
  const int64_t first = chunk * kLossChunk<T>;
  const int count = static_cast<int>(min(layer.size - first, kLossChunk<T>));
  const T *x = layer.x + n * layer.stride_x + first, *y = layer.y + n * layer.stride_y + first;
  T* dx = kWantsGradient<kWanted> ? layer.dx + n * layer.size + first : nullptr;
  Acc factor = 0;
  if constexpr (kWantsGradient<kWanted>) factor = (table.grad ? table.grad[n] : Acc(1)) * (layer.weight * layer.scale);

  const int packed = layer.packed ? count / kPackWidth<T> * kPackWidth<T> : 0;
  Acc sum = loss_walk<kPackWidth<T>, kDistance, kWanted>(x, y, dx, 0, packed, parameter, factor);
  sum += loss_walk<1, kDistance, kWanted>(x, y, dx, packed, count, parameter, factor);
  if constexpr (kWantsValue<kWanted>) finish_loss(table, l, n, chunk, sum);
}

}  // namespace perceptual_ops
