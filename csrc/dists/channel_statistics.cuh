// Kernels of the means and standard deviations of a map's channels, and of their gradient, each in one launch over all
// layers and one pass over memory.
//
// Bound by memory: an input read an element, and of the gradient one or two read and one written, against less than ten
// instructions. Targets on every architecture: at most 128 registers, for 2 blocks (512 threads) an SM; each thread has
// 6 loads of 16 bytes in flight before it uses the first, together at least 48 KB per SM. Shared memory: 9 KB a block
// of the value, 1.5 KB of the gradient.
#pragma once

#include "channel_statistics.h"
#include "moments.cuh"

namespace perceptual_ops {

template <class T>
struct StatisticsEntry : LayerWalk {
  using Acc = DeviceAccumulator<T>;
  const T* x;            // (N, E), E = C * P
  const T* other;        // (N, E), or null
  T* dx;                 // (N, E)
  Acc* statistics;       // (N, 2, C)
  const Acc* slopes;     // (N, 2, C)
  int64_t stride_x;      // elements from sample to sample
  int64_t stride_other;  // elements
  Acc share;             // of a pixel in the statistics
};

template <class T>
struct StatisticsTable : LayerTable<StatisticsEntry<T>> {
  using Acc = DeviceAccumulator<T>;
  Acc* partial;        // (sizes.partial)
  uint32_t* arrivals;  // (sizes.groups)
  const Acc* grad;     // (N), or null for ones
};
static_assert(sizeof(StatisticsTable<double>) <= 4096, "a kernel has 4 KB of parameters");

template <class T>
__global__ void __launch_bounds__(kDistsThreads, kDistsBlocks)
    channel_statistics_kernel(const __grid_constant__ StatisticsTable<T> table) {
  using Acc = DeviceAccumulator<T>;
  using Sums = MomentSums<T, 1>;
  using BlockOrigins = Origins<T, 1>;
  PO_SHARED(BlockOrigins, origins);
  PO_SHARED(Sums, sums);
  const DistsPlace place = dists_place(table);
  const StatisticsEntry<T>& layer = table.layers[place.layer];
  const MapPointers<T, 1> maps{{layer.x + place.n * layer.stride_x}};
  // Load and sum over the block's pixels.
  dispatch_walk<T>(layer, [&](auto width, auto nhwc) {
    observe<decltype(width)::value, decltype(nhwc)::value>(layer, place, maps, origins, sums);
  });
  __syncthreads();  // every warp's sums are there

  // Reduce over the blocks of the channels, store.
  const uint32_t group = place.n * layer.groups + place.group;
  Acc* slots = table.partial + layer.partial + int64_t(group) * layer.chunks * kMoments<1> * layer.span;
  if (!ends_moments<1>(layer, place, slots, table.arrivals + layer.first_group + group, sums)) return;
  const int i = threadIdx.x;
  if (i >= group_channels(layer, place)) return;
  Acc mean[1], variance[1];
  finish_moments<T, 1>(layer, i, origins, sums, mean, variance);
  Acc* statistics = layer.statistics + place.n * int64_t(kChannelStatistics) * layer.channels;
  const int64_t channel = int64_t(place.group) * layer.span + i;
  statistics[channel] = mean[0];
  statistics[layer.channels + channel] = sqrt(variance[0] + Acc(kDeviationEps));
}

// The gradient with respect to a pixel of a channel: base + by_deviation * (x - mean).
template <class Acc>
struct DeviationSlope {
  Acc mean, base, by_deviation;
};

// The slopes of a block's channels, in shared memory.
template <class T>
struct DeviationSlopes {
  using Acc = DeviceAccumulator<T>;
  ChannelNumbers<T> mean, base, by_deviation;

  // `factor`: the upstream gradient over the pixels.
  __device__ __forceinline__ void set(int at, const StatisticsEntry<T>& layer, uint32_t n, uint32_t channel,
                                      Acc factor) {
    const int64_t of_mean = n * int64_t(kChannelStatistics) * layer.channels + channel;
    const int64_t of_deviation = of_mean + layer.channels;
    mean[at] = layer.statistics[of_mean];
    base[at] = factor * layer.slopes[of_mean];
    by_deviation[at] = factor * layer.slopes[of_deviation] / layer.statistics[of_deviation];
  }

  // Those of a thread's channels.
  template <int kChannels>
  __device__ __forceinline__ void load(int column, DeviationSlope<Acc> (&slopes)[kChannels]) const {
    mean.template load<kChannels>(column, [&](int k, Acc number) { slopes[k].mean = number; });
    base.template load<kChannels>(column, [&](int k, Acc number) { slopes[k].base = number; });
    by_deviation.template load<kChannels>(column, [&](int k, Acc number) { slopes[k].by_deviation = number; });
  }
};

// The gradients of a thread's pixels, kMaps - 1 others added.
template <int kWidth, bool kNhwc, int kMaps, class T>
__device__ __forceinline__ void deviation_walk(const StatisticsEntry<T>& layer, const DistsPlace& place,
                                               const DeviationSlopes<T>& slopes) {
  using Acc = DeviceAccumulator<T>;
  constexpr int kChannels = kNhwc ? kWidth : 1;
  const ThreadWalk walk = thread_walk<kChannels, kNhwc>(layer, place);
  if (walk.packs == 0) return;
  MapPointers<T, kMaps> maps;
  maps.maps[0] = layer.x + place.n * layer.stride_x + walk.first;
  if constexpr (kMaps > 1) maps.maps[1] = layer.other + place.n * layer.stride_other + walk.first;
  T* dx = layer.dx + place.n * layer.pixels * layer.channels + walk.first;
  DeviationSlope<Acc> slope[kChannels];
  slopes.load(walk.column, slope);

  for (int i = 0; i < walk.packs; i += kLoads<kMaps>) {
    MapPacks<T, kMaps, kWidth> packs[kLoads<kMaps>];
#pragma unroll
    for (int j = 0; j < kLoads<kMaps>; ++j) {
      // Out of bounds, the last pack again: without branches all loads are issued together.
      packs[j] = MapPacks<T, kMaps, kWidth>::load(maps.at(min(i + j, walk.packs - 1) * walk.step));
    }
#pragma unroll
    for (int j = 0; j < kLoads<kMaps>; ++j) {
      if (i + j >= walk.packs) break;
      Acc results[kWidth];
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const DeviationSlope<Acc>& of = slope[kNhwc ? k : 0];
        results[k] = of.base + of.by_deviation * (widen(packs[j].maps[0].values[k]) - of.mean);
        if constexpr (kMaps > 1) results[k] += widen(packs[j].maps[1].values[k]);
      }
      store_pack(dx + (i + j) * walk.step, narrow_pack<T, kWidth>(results));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kDistsThreads, kDistsBlocks)
    channel_statistics_backward_kernel(const __grid_constant__ StatisticsTable<T> table) {
  using Acc = DeviceAccumulator<T>;
  PO_SHARED(DeviationSlopes<T>, slopes);
  const DistsPlace place = dists_place(table);
  const StatisticsEntry<T>& layer = table.layers[place.layer];
  const int channels = layer.columns * (layer.nhwc && layer.packed ? kPackWidth<T> : 1);
  const int i = threadIdx.x;
  const uint32_t channel = place.group * channels + i;
  if (i < channels && channel < layer.memory_channels) {
    const Acc upstream = table.grad == nullptr ? Acc(1) : table.grad[place.n];
    slopes.set(i, layer, place.n, channel % layer.channels, upstream * layer.share);
  }
  __syncthreads();  // the block's slopes are there
  dispatch_walk<T>(layer, [&](auto width, auto nhwc) {
    constexpr int kWidth = decltype(width)::value;
    constexpr bool kNhwc = decltype(nhwc)::value;
    layer.other == nullptr ? deviation_walk<kWidth, kNhwc, 1>(layer, place, slopes)
                           : deviation_walk<kWidth, kNhwc, 2>(layer, place, slopes);
  });
}

}  // namespace perceptual_ops
