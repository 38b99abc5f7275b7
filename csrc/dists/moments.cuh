// Mean and variance of the channels of one map x, or of two, x and y, and of their error x - y, in one pass over
// memory. Each block writes sums over its pixels to a slot; the last block of a group of channels reduces the slots in
// order.
//
// A variance from raw sums of squares cancels where the mean is larger than the deviation. So values are summed as
// differences from an origin near the mean (shifted data): that of some dozens of pixels that are spread over the
// sample, the same for all blocks of a channel. As a mean of k of the P pixels it lies at most sqrt(P / k) deviations
// off, and rarely one. The error has sums of its own: as a difference of those of x and y it would cancel where the two
// are nearly equal.
#pragma once

#include "../common/last_block.cuh"
#include "sums.cuh"

namespace perceptual_ops {

constexpr int kOriginPacks = 2;  // of a thread

// What is observed of the pixels of one map, or of two.
constexpr int kX = 0, kY = 1, kError = 2;
template <int kMaps>
constexpr int kObserved = kMaps == 1 ? 1 : 3;
// Of each a mean and a variance, and the sums that become them.
template <int kMaps>
constexpr int kMoments = 2 * kObserved<kMaps>;

// A pixel of a channel.
template <class Acc, int kMaps>
struct Observed {
  Acc values[kObserved<kMaps>];
};

// Where the maps lie.
template <class T, int kMaps>
struct MapPointers {
  const T* maps[kMaps];

  __device__ __forceinline__ MapPointers at(int64_t element) const {
    MapPointers moved = *this;
#pragma unroll
    for (int m = 0; m < kMaps; ++m) moved.maps[m] += element;
    return moved;
  }
};

// A pack of each map.
template <class T, int kMaps, int kWidth>
struct MapPacks {
  Pack<T, kWidth> maps[kMaps];

  static __device__ __forceinline__ MapPacks load(const MapPointers<T, kMaps>& from) {
    MapPacks packs;
#pragma unroll
    for (int m = 0; m < kMaps; ++m) packs.maps[m] = load_pack<T, kWidth>(from.maps[m]);
    return packs;
  }

  __device__ __forceinline__ Observed<DeviceAccumulator<T>, kMaps> observed(int k) const {
    if constexpr (kMaps == 1) {
      return {{widen(maps[kX].values[k])}};
    } else {
      const DeviceAccumulator<T> x = widen(maps[kX].values[k]), y = widen(maps[kY].values[k]);
      return {{x, y, x - y}};
    }
  }
};

template <class T, int kMaps>
using MomentSums = ChannelSums<T, kMoments<kMaps>>;

// Origins of the channels of a block in memory.
template <class T, int kMaps>
struct Origins {
  ChannelNumbers<T> values[kObserved<kMaps>];
};

// Sums of the pixels that the origin is made of: fractions of the golden ratio spread them, whatever the width of the
// map, and as evenly for few as for many.
template <int kWidth, bool kNhwc, int kMaps, int kChannels, class T, class Acc>
__device__ __forceinline__ void sum_spread_pixels(const LayerWalk& layer, const ThreadWalk& walk,
                                                  const MapPointers<T, kMaps>& maps,
                                                  Acc (&numbers)[kChannels][kObserved<kMaps>]) {
  constexpr uint32_t kGoldenRatio = 2654435769u;  // over 2^32
#pragma unroll
  for (int j = 0; j < kOriginPacks; ++j) {
    const uint32_t fraction = (walk.row * kOriginPacks + j + 1) * kGoldenRatio;
    const int64_t place = walk.origin + int64_t(uint64_t(layer.units) * fraction >> 32) * layer.line;
    const auto packs = MapPacks<T, kMaps, kWidth>::load(maps.at(place));
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const auto pixel = packs.observed(k);
#pragma unroll
      for (int z = 0; z < kObserved<kMaps>; ++z) numbers[kNhwc ? k : 0][z] += pixel.values[z];
    }
  }
}

// Sums of kPacks packs and of their squares, for each channel. They are summed before they are added to the others:
// short chains lose little.
template <int kPacks, int kWidth, bool kNhwc, int kMaps, int kChannels, class T, class Acc>
__device__ __forceinline__ void sum_packs(const MapPointers<T, kMaps>& maps, int64_t step,
                                          const Observed<Acc, kMaps> (&origin)[kChannels],
                                          Acc (&numbers)[kChannels][kMoments<kMaps>]) {
  constexpr int kCount = kObserved<kMaps>;
  MapPacks<T, kMaps, kWidth> packs[kPacks];
#pragma unroll
  for (int j = 0; j < kPacks; ++j) packs[j] = MapPacks<T, kMaps, kWidth>::load(maps.at(j * step));
#pragma unroll
  for (int channel = 0; channel < kChannels; ++channel) {
    Acc sums[2 * kCount] = {};
#pragma unroll
    for (int i = 0; i < kPacks * kWidth / kChannels; ++i) {
      const int j = kNhwc ? i : i / kWidth, k = kNhwc ? channel : i % kWidth;
      const auto pixel = packs[j].observed(k);
#pragma unroll
      for (int z = 0; z < kCount; ++z) {
        const Acc distance = pixel.values[z] - origin[channel].values[z];
        sums[z] += distance;
        sums[kCount + z] += distance * distance;
      }
    }
#pragma unroll
    for (int z = 0; z < 2 * kCount; ++z) numbers[channel][z] += sums[z];
  }
}

// The same of all of a thread's packs.
template <int kWidth, bool kNhwc, int kMaps, int kChannels, class T, class Acc>
__device__ __forceinline__ void sum_pixels(const ThreadWalk& walk, MapPointers<T, kMaps> maps,
                                           const Observed<Acc, kMaps> (&origin)[kChannels],
                                           Acc (&numbers)[kChannels][kMoments<kMaps>]) {
  maps = maps.at(walk.first);
  int left = walk.packs;
#pragma unroll 1
  for (; left >= kLoads<kMaps>; left -= kLoads<kMaps>, maps = maps.at(kLoads<kMaps> * walk.step)) {
    sum_packs<kLoads<kMaps>, kWidth, kNhwc>(maps, walk.step, origin, numbers);
  }
#pragma unroll 1
  for (; left > 0; --left, maps = maps.at(walk.step)) sum_packs<1, kWidth, kNhwc>(maps, walk.step, origin, numbers);
}

// Leaves the origins of a block's channels, and sums over its pixels. `maps`: of its sample.
template <int kWidth, bool kNhwc, int kMaps, class T>
__device__ __forceinline__ void observe(const LayerWalk& layer, const DistsPlace& place,
                                        const MapPointers<T, kMaps>& maps, Origins<T, kMaps>& origins,
                                        MomentSums<T, kMaps>& sums) {
  using Acc = DeviceAccumulator<T>;
  constexpr int kChannels = kNhwc ? kWidth : 1, kPartsOfBlock = kNhwc ? kDistsWarps : 1;
  const ThreadWalk walk = thread_walk<kChannels, kNhwc>(layer, place);
  // Origins, from pixels spread over the sample.
  Acc spread[kChannels][kObserved<kMaps>] = {};
  if (walk.has_channel) sum_spread_pixels<kWidth, kNhwc>(layer, walk, maps, spread);
  sums.template add_lanes<kNhwc>(layer, walk.column, spread);
  __syncthreads();  // every warp's sums are there

  const int channel = threadIdx.x;
  if (channel < group_channels(layer, place)) {
    const int rows = kDistsThreads / layer.columns, fold = layer.memory_channels / layer.channels;
    const Acc share = Acc(1) / Acc(rows * kOriginPacks * (kNhwc ? fold : kWidth));
#pragma unroll
    for (int z = 0; z < kObserved<kMaps>; ++z) {
      // In the maps' dtype: differences of 16-bit values are then exact, or their rounding errors would accumulate.
      const Acc origin = widen(narrow<T>(sums.total(layer, kPartsOfBlock, z, channel) * share));
      for (int copy = 0; copy < fold; ++copy) origins.values[z][copy * layer.channels + channel] = origin;
    }
  }
  __syncthreads();  // the origins are there, and their sums no longer needed

  // Sums over the block's pixels.
  Acc numbers[kChannels][kMoments<kMaps>] = {};
  if (walk.packs > 0) {
    Observed<Acc, kMaps> origin[kChannels];
#pragma unroll
    for (int z = 0; z < kObserved<kMaps>; ++z) {
      origins.values[z].template load<kChannels>(walk.column, [&](int k, Acc at) { origin[k].values[z] = at; });
    }
    sum_pixels<kWidth, kNhwc>(walk, maps, origin, numbers);
  }
  sums.template add_lanes<kNhwc>(layer, walk.column, numbers);
}

// Reduces the slots of a group's chunks, warp by warp.
template <int kMaps, class T>
__device__ __forceinline__ void add_slots(const LayerWalk& layer, int channels,
                                          const DeviceAccumulator<T>* slots,  // (chunks, moments, span)
                                          MomentSums<T, kMaps>& sums) {
  using Acc = DeviceAccumulator<T>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, span = layer.span;
  for (int i = lane; i < channels; i += kWarp) {
    Acc numbers[kMoments<kMaps>] = {};
#pragma unroll 4
    for (uint32_t chunk = warp; chunk < layer.chunks; chunk += kDistsWarps) {
      const Acc* slot = slots + int64_t(chunk) * kMoments<kMaps> * span + i;
#pragma unroll
      for (int z = 0; z < kMoments<kMaps>; ++z) numbers[z] += slot[z * span];
    }
#pragma unroll
    for (int z = 0; z < kMoments<kMaps>; ++z) sums.parts[warp][z][i] = numbers[z];
  }
}

// Writes a block's sums to their slot. True in every thread of the group's last block, where `sums` then has parts of
// the whole group's, one a warp. Called by all threads of a block.
template <int kMaps, class T>
__device__ __forceinline__ bool ends_moments(const LayerWalk& layer, const DistsPlace& place,
                                             DeviceAccumulator<T>* slots,  // (chunks, moments, span), of the group
                                             uint32_t* arrivals,           // of the group
                                             MomentSums<T, kMaps>& sums) {
  const int i = threadIdx.x, channels = group_channels(layer, place);
  if (i < channels) {
    DeviceAccumulator<T>* slot = slots + int64_t(place.chunk) * kMoments<kMaps> * layer.span + i;
    const int used = layer.nhwc ? kDistsWarps : 1;
    for (int z = 0; z < kMoments<kMaps>; ++z) slot[z * layer.span] = sums.total(layer, used, z, i);
  }
  if (!arrives_last(arrivals, layer.chunks)) return false;
  add_slots<kMaps>(layer, channels, slots, sums);
  __syncthreads();  // every warp's slots are added up
  return true;
}

// Mean and variance of channel `i` of a group.
template <class T, int kMaps>
__device__ __forceinline__ void finish_moments(const LayerWalk& layer, int i, const Origins<T, kMaps>& origins,
                                               const MomentSums<T, kMaps>& sums,
                                               DeviceAccumulator<T> (&mean)[kObserved<kMaps>],
                                               DeviceAccumulator<T> (&variance)[kObserved<kMaps>]) {
  using Acc = DeviceAccumulator<T>;
  const Acc share = Acc(1) / Acc(layer.pixels);
#pragma unroll
  for (int z = 0; z < kObserved<kMaps>; ++z) {
    Acc sum = 0, squares = 0;
    for (int part = 0; part < kDistsWarps; ++part) {
      sum += sums.parts[part][z][i];
      squares += sums.parts[part][kObserved<kMaps> + z][i];
    }
    const Acc distance = sum * share, found = squares * share - distance * distance;
    mean[z] = origins.values[z][i] + distance;
    variance[z] = found < Acc(0) ? Acc(0) : found;  // NaN stays
  }
}

}  // namespace perceptual_ops
