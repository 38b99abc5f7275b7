// Kernel of LPIPS: all layers in one launch, values and gradients in one pass. A block takes a run of pixels of one
// sample of one layer, by lanes.cuh where a pixel of an NHWC map fits into registers and by tiles.cuh elsewhere; the
// last block of a sample's layer sums its runs, the last layer of a sample its losses. The gradient with respect to y
// alone is that of x with the two swapped: the distance is symmetric.
//
// 2 inputs are read and 1 or 2 outputs written an element. With one gradient that is 12 bytes in fp32, in which time an
// H200 issues 54 instructions; the loops of lanes.cuh have 28, so that memory bounds them. In 16 bits it issues 27 in
// the time of 6 bytes, and the loops have 31: instructions bound them, at 0.85 of the memory bandwidth. Targets on
// every architecture: at most 128 registers, for 2 blocks (512 threads) an SM; each thread has 6 to 8 loads of 16 bytes
// in flight before it uses the first, together at least 48 KB per SM, where an H200 needs about 25 KB to saturate its
// memory. Both gradients at once, which few ask for, take more registers and have one block an SM, with half of that.
// Shared memory: at most 12 KB.
#pragma once

#include "../common/last_block.cuh"
#include "lanes.cuh"
#include "tiles.cuh"

namespace perceptual_ops {

template <int kGradients>
constexpr int kLpipsBlocks = kGradients > 1 ? 1 : 2;  // an SM
constexpr int kLpipsSweeps = 2;                       // of a block over its run: two hide the block reduction
constexpr int kPixelLayers = 32;                      // of a launch
// Whether a lane may hold four packs. In 16 bits their weights would take the registers of two more maps.
template <class T>
constexpr bool kFourLanePacks = sizeof(T) > 2;

// How a layer is walked: by lanes with so many packs each, or by tiles.
enum class Walk : uint8_t { kSingles, kPixelPacks, kTwoPacks, kThreePacks, kFourPacks };

template <class T>
struct PixelLayer {
  using Acc = DeviceAccumulator<T>;

  const T *x, *y;              // (N, C, P), (N or 1, C, P)
  const Acc* weights;          // (C)
  T *dx, *dy;                  // (N, C, P), or null
  Acc* map;                    // (N, P), or null
  const Acc* map_grad;         // (N, P), or null
  int64_t pixels;              // P
  int64_t stride_x, stride_y;  // elements from sample to sample; 0 where one stands for all
  uint32_t channels;           // C
  uint32_t first_block, runs;  // its first block in the grid; blocks a sample
  uint16_t run;                // pixels of a block
  uint8_t lanes;               // of a pixel, where lanes walk
  Walk walk;
  bool nhwc;
};

// A kernel parameter: the constant bank serves all threads of a block at once.
template <class T>
struct PixelTable {
  using Acc = DeviceAccumulator<T>;

  PixelLayer<T> layers[kPixelLayers];
  uint32_t count, batch;
  uint32_t first_layer;  // layers in earlier launches
  Acc* partial;          // (blocks) of this launch, or null where no values are wanted
  uint32_t* arrivals;    // (L + 1, N): runs of a layer's samples; layers of the samples, of all launches
  Acc* values;           // (L, N)
  Acc* loss;             // (N)
  const Acc* grad;       // (N) or null
  Norm<Acc> norm;
};
static_assert(sizeof(PixelTable<double>) <= 4096, "a kernel has 4 KB of parameters");

template <class T>
__device__ __forceinline__ PixelRun<T> pixel_run(const PixelTable<T>& table, const PixelLayer<T>& layer, uint32_t n,
                                                 uint32_t number) {
  using Acc = DeviceAccumulator<T>;
  const int64_t first = int64_t(number) * layer.run, size = layer.pixels * layer.channels;
  const int64_t stride_c = layer.nhwc ? 1 : layer.pixels, stride_p = layer.nhwc ? layer.channels : 1;
  const int64_t place = n * size + first * stride_p;
  return {layer.x + n * layer.stride_x + first * stride_p,
          layer.y + n * layer.stride_y + first * stride_p,
          layer.dx + place,
          layer.dy + place,
          layer.weights,
          layer.map ? layer.map + n * layer.pixels + first : nullptr,
          layer.map_grad ? layer.map_grad + n * layer.pixels + first : nullptr,
          (table.grad ? table.grad[n] : Acc(1)) / Acc(layer.pixels),
          table.norm,
          static_cast<int>(min(layer.pixels - first, int64_t(layer.run))),
          static_cast<int>(layer.channels),
          stride_c,
          stride_p};
}

// Reduces over the blocks of a launch: `value` of each thread, of one run of sample `n` of a layer.
template <class T>
__device__ __forceinline__ void finish_lpips(const PixelTable<T>& table, uint32_t l, uint32_t n, uint32_t number,
                                             DeviceAccumulator<T> value) {
  using Acc = DeviceAccumulator<T>;
  const PixelLayer<T>& layer = table.layers[l];
  Acc* slots = table.partial + layer.first_block + n * layer.runs;
  const int64_t place = int64_t(table.first_layer + l) * table.batch + n;
  Acc sum;
  // The counters of the samples come first: (1, N), then (L, N).
  if (!ends_sum<kLpipsThreads>(value, number, layer.runs, slots, table.arrivals + table.batch + place, sum)) return;
  if (threadIdx.x == 0) table.values[place] = sum / Acc(layer.pixels);
  if (!arrives_last(table.arrivals + n, table.first_layer + table.count) || threadIdx.x != 0) return;
  Acc loss = table.first_layer > 0 ? table.loss[n] : Acc(0);
  for (uint32_t i = 0; i < table.count; ++i) {
    loss += table.values[int64_t(table.first_layer + i) * table.batch + n];
  }
  table.loss[n] = loss;
}

// kGradients: 0 none, 1 with respect to x, 2 to x and y. Grid: the layers one after the other, N * runs blocks each,
// runs innermost; under 2^31 (lpips.cu checks): a 64-bit division would be a call that spills.
template <class T, int kGradients>
__global__ void __launch_bounds__(kLpipsThreads, kLpipsBlocks<kGradients>) lpips_kernel(const PixelTable<T> table) {
  uint32_t l = 0;
  while (l + 1 < table.count && table.layers[l + 1].first_block <= blockIdx.x) ++l;
  const PixelLayer<T>& layer = table.layers[l];
  const uint32_t n = (blockIdx.x - layer.first_block) / layer.runs;
  const uint32_t number = (blockIdx.x - layer.first_block) % layer.runs;
  const PixelRun<T> run = pixel_run(table, layer, n, number);

  DeviceAccumulator<T> sum = 0;
  if (layer.walk == Walk::kTwoPacks) {
    sum = walk_lanes<2, kGradients>(run, layer.lanes);
  } else if (layer.walk == Walk::kThreePacks) {
    sum = walk_lanes<3, kGradients>(run, layer.lanes);
  } else if (kFourLanePacks<T> && layer.walk == Walk::kFourPacks) {
    sum = walk_lanes<4, kGradients>(run, layer.lanes);
  } else if (layer.walk == Walk::kPixelPacks) {
    sum = walk_tiles<kPackWidth<T>, kGradients>(run);
  } else {
    sum = walk_tiles<1, kGradients>(run);
  }
  if (table.partial) finish_lpips(table, l, n, number, sum);
}

}  // namespace perceptual_ops
