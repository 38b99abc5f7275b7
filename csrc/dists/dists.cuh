// Kernel of the DISTS distance: moments of x, y and x - y by channel, and from them the values, in one launch over all
// layers and one pass over memory. The last block of a group of channels makes its values; the last group of a sample
// adds up its layers.
//
// Bound by memory: 2 inputs read an element, against about 15 instructions for the two. Targets on every architecture:
// at most 128 registers, for 2 blocks (512 threads) an SM; each thread has 6 loads of 16 bytes in flight before it
// uses the first, together at least 48 KB per SM, where an H200 needs about 25 KB to saturate its memory. Shared
// memory: 26 KB a block.
#pragma once

#include "dists.h"
#include "moments.cuh"

namespace perceptual_ops {

static_assert(kDistsStatistics == kMoments<2>, "means, then variances");

template <class T>
struct DistsEntry : LayerWalk {
  using Acc = DeviceAccumulator<T>;
  const T* x;        // (N, E), E = C * P
  const T* y;        // (N or 1, E)
  T* dx;             // (N, E), or null
  T* dy;             // (N, E), or null
  const Acc* alpha;  // (C)
  const Acc* beta;   // (C)
  Acc* statistics;   // (N, 6, C)
  int64_t stride_x;  // elements from sample to sample
  int64_t stride_y;  // elements; 0 where one sample stands for all
};

template <class T>
struct DistsTable : LayerTable<DistsEntry<T>> {
  using Acc = DeviceAccumulator<T>;
  uint32_t batch;
  uint32_t first_layer;  // layers in earlier launches
  uint32_t groups;       // of a sample, up to the last layer of this launch
  Acc* partial;          // (sizes.partial)
  Acc* of_groups;        // (sizes.groups)
  uint32_t* arrivals;    // (N + sizes.groups)
  Acc* values;           // (L, N)
  Acc* loss;             // (N)
  const Acc* grad;       // (N)
};
static_assert(sizeof(DistsTable<double>) <= 4096, "a kernel has 4 KB of parameters");

// Writes the statistics of a channel, `i` of the group's, and returns what it adds to the value of its layer.
template <class T>
__device__ __forceinline__ DeviceAccumulator<T> channel_value(const DistsEntry<T>& layer, const DistsPlace& place,
                                                              int i, const Origins<T, 2>& origins,
                                                              const MomentSums<T, 2>& sums) {
  using Acc = DeviceAccumulator<T>;
  const int64_t channel = int64_t(place.group) * layer.span + i, channels = layer.channels;
  Acc* statistics = layer.statistics + place.n * kDistsStatistics * channels + channel;
  Acc mean[kObserved<2>], variance[kObserved<2>];
  finish_moments<T, 2>(layer, i, origins, sums, mean, variance);
#pragma unroll
  for (int z = 0; z < kObserved<2>; ++z) {
    statistics[z * channels] = mean[z];
    statistics[(kObserved<2> + z) * channels] = variance[z];
  }
  const Acc eps = Acc(kDistsEps);
  const Acc of_means = mean[kError] * mean[kError] / (mean[kX] * mean[kX] + mean[kY] * mean[kY] + eps);
  const Acc of_structures = variance[kError] / (variance[kX] + variance[kY] + eps);
  return layer.alpha[channel] * of_means + layer.beta[channel] * of_structures;
}

// Reduces the groups of a sample to its layers' values and its loss. Called by one block.
template <class T>
__device__ __forceinline__ void finish_sample(const DistsTable<T>& table, uint32_t n) {
  using Acc = DeviceAccumulator<T>;
  using LayerValues = Acc[kDistsLayers];
  PO_SHARED(LayerValues, values);
  if (threadIdx.x < table.count) {
    const DistsEntry<T>& layer = table.layers[threadIdx.x];
    const Acc* of_groups = table.of_groups + layer.first_group + n * layer.groups;
    Acc value = 0;
    for (uint32_t group = 0; group < layer.groups; ++group) value += of_groups[group];
    table.values[int64_t(table.first_layer + threadIdx.x) * table.batch + n] = values[threadIdx.x] = value;
  }
  __syncthreads();  // every layer's value is there
  if (threadIdx.x > 0) return;
  Acc loss = table.first_layer > 0 ? table.loss[n] : Acc(0);
  for (uint32_t l = 0; l < table.count; ++l) loss += values[l];
  table.loss[n] = loss;
}

template <class T>
__global__ void __launch_bounds__(kDistsThreads, kDistsBlocks)
    dists_kernel(const __grid_constant__ DistsTable<T> table) {
  using Acc = DeviceAccumulator<T>;
  using Sums = MomentSums<T, 2>;
  using BlockOrigins = Origins<T, 2>;
  PO_SHARED(BlockOrigins, origins);
  PO_SHARED(Sums, sums);
  const DistsPlace place = dists_place(table);
  const DistsEntry<T>& layer = table.layers[place.layer];
  const MapPointers<T, 2> maps{{layer.x + place.n * layer.stride_x, layer.y + place.n * layer.stride_y}};
  // Load and sum over the block's pixels.
  dispatch_walk<T>(layer, [&](auto width, auto nhwc) {
    observe<decltype(width)::value, decltype(nhwc)::value>(layer, place, maps, origins, sums);
  });
  __syncthreads();  // every warp's sums are there

  // Reduce over the blocks of the channels, then over the channels, then over the layers.
  const uint32_t group = place.n * layer.groups + place.group;
  Acc* slots = table.partial + layer.partial + int64_t(group) * layer.chunks * kDistsStatistics * layer.span;
  if (!ends_moments<2>(layer, place, slots, table.arrivals + table.batch + layer.first_group + group, sums)) return;
  const int i = threadIdx.x;
  const Acc value = block_sum<kDistsThreads>(
      i < group_channels(layer, place) ? channel_value(layer, place, i, origins, sums) : Acc(0));
  if (i == 0) table.of_groups[layer.first_group + group] = value;
  if (arrives_last(table.arrivals + place.n, table.groups)) finish_sample(table, place.n);
}

}  // namespace perceptual_ops
