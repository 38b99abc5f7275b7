// Kernel of the DISTS distance: statistics of x, y and x - y by channel, and from them the values, in one launch over
// all layers and one pass over memory. Each block leaves sums over its pixels in a slot; the last block of a group of
// channels adds the slots up in their order, the last group of a sample its layers.
//
// A variance from sums of squares loses what the mean is larger than the deviation. So numbers are summed as distances
// from an origin near the mean: that of some dozens of pixels that are spread over the sample, the same for all blocks
// of a channel. As a mean of k of the P pixels it lies at most sqrt(P / k) deviations off, and rarely one. e has sums
// of its own: as a difference of those of x and y it would be lost where the two are nearly the same.
//
// Bound by memory: 2 inputs read an element, against about 15 instructions for the two. Targets on every architecture:
// at most 128 registers, for 2 blocks (512 threads) an SM; each thread has 6 loads of 16 bytes under way before it
// uses the first, together at least 48 KB an SM, where an H200 needs about 25 KB to keep its memory busy. Shared
// memory: 26 KB a block.
#pragma once

#include "../common/last_block.cuh"
#include "sums.cuh"

namespace perceptual_ops {

constexpr int kOriginPacks = 2;  // of a thread

// Origins of the channels of a block in memory.
template <class T>
struct Origins {
  ChannelNumbers<T> values[kTriple];
};

// Channels of a place's group.
template <class T>
__device__ __forceinline__ int group_channels(const DistsEntry<T>& layer, const DistsPlace& place) {
  return static_cast<int>(min(layer.span, layer.channels - place.group * layer.span));
}

// Sums of the pixels that the origin is made of: fractions of the golden ratio spread them, whatever the width of the
// map, and as evenly for few as for many.
template <int kWidth, bool kNhwc, int kChannels, class T, class Acc>
__device__ __forceinline__ void sum_spread_pixels(const DistsEntry<T>& layer, const ThreadWalk& walk, const T* x,
                                                  const T* y, Acc (&numbers)[kChannels][kTriple]) {
  constexpr uint32_t kGoldenRatio = 2654435769u;  // over 2^32
#pragma unroll
  for (int j = 0; j < kOriginPacks; ++j) {
    const uint32_t fraction = (walk.row * kOriginPacks + j + 1) * kGoldenRatio;
    const int64_t place = walk.origin + int64_t(uint64_t(layer.units) * fraction >> 32) * layer.line;
    const auto xs = load_pack<T, kWidth>(x + place), ys = load_pack<T, kWidth>(y + place);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const auto pixel = triple<Acc>(xs, ys, k);
#pragma unroll
      for (int z = 0; z < kTriple; ++z) numbers[kNhwc ? k : 0][z] += pixel.values[z];
    }
  }
}

// Sums of kPacks packs, and of their squares, for each channel. They are added up before they join the others: short
// sums lose little.
template <int kPacks, int kWidth, bool kNhwc, int kChannels, class T, class Acc>
__device__ __forceinline__ void sum_packs(const T* x, const T* y, int64_t step, const Triple<Acc> (&origin)[kChannels],
                                          Acc (&numbers)[kChannels][kDistsStatistics]) {
  Pack<T, kWidth> xs[kPacks], ys[kPacks];
#pragma unroll
  for (int j = 0; j < kPacks; ++j) {
    xs[j] = load_pack<T, kWidth>(x + j * step);
    ys[j] = load_pack<T, kWidth>(y + j * step);
  }
#pragma unroll
  for (int channel = 0; channel < kChannels; ++channel) {
    Acc sums[kDistsStatistics] = {};
#pragma unroll
    for (int i = 0; i < kPacks * kWidth / kChannels; ++i) {
      const int j = kNhwc ? i : i / kWidth, k = kNhwc ? channel : i % kWidth;
      const auto pixel = triple<Acc>(xs[j], ys[j], k);
#pragma unroll
      for (int z = 0; z < kTriple; ++z) {
        const Acc distance = pixel.values[z] - origin[channel].values[z];
        sums[z] += distance;
        sums[kTriple + z] += distance * distance;
      }
    }
#pragma unroll
    for (int z = 0; z < kDistsStatistics; ++z) numbers[channel][z] += sums[z];
  }
}

// The same of all of a thread's packs.
template <int kWidth, bool kNhwc, int kChannels, class T, class Acc>
__device__ __forceinline__ void sum_pixels(const ThreadWalk& walk, const T* x, const T* y,
                                           const Triple<Acc> (&origin)[kChannels],
                                           Acc (&numbers)[kChannels][kDistsStatistics]) {
  x += walk.first;
  y += walk.first;
  int left = walk.packs;
#pragma unroll 1
  for (; left >= kDistsLoads; left -= kDistsLoads) {
    sum_packs<kDistsLoads, kWidth, kNhwc>(x, y, walk.step, origin, numbers);
    x += kDistsLoads * walk.step;
    y += kDistsLoads * walk.step;
  }
#pragma unroll 1
  for (; left > 0; --left, x += walk.step, y += walk.step) {
    sum_packs<1, kWidth, kNhwc>(x, y, walk.step, origin, numbers);
  }
}

// Leaves the origins of a block's channels, and sums over its pixels.
template <int kWidth, bool kNhwc, class T>
__device__ __forceinline__ void observe(const DistsEntry<T>& layer, const DistsPlace& place, Origins<T>& origins,
                                        ChannelSums<T>& sums) {
  using Acc = DeviceAccumulator<T>;
  constexpr int kChannels = kNhwc ? kWidth : 1, kPartsOfBlock = kNhwc ? kDistsWarps : 1;
  const ThreadWalk walk = thread_walk<kChannels, kNhwc>(layer, place);
  const T *x = layer.x + place.n * layer.stride_x, *y = layer.y + place.n * layer.stride_y;
  Acc spread[kChannels][kTriple] = {};
  if (walk.has_channel) sum_spread_pixels<kWidth, kNhwc>(layer, walk, x, y, spread);
  sums.template add_lanes<kNhwc>(layer, walk.column, spread);
  __syncthreads();  // every warp's sums are there

  const int channel = threadIdx.x;
  if (channel < group_channels(layer, place)) {
    const int rows = kDistsThreads / layer.columns, fold = layer.memory_channels / layer.channels;
    const Acc share = Acc(1) / Acc(rows * kOriginPacks * (kNhwc ? fold : kWidth));
#pragma unroll
    for (int z = 0; z < kTriple; ++z) {
      // In the maps' dtype: the distances of 16-bit numbers are then exact, or their rounding would add up.
      const Acc origin = widen(narrow<T>(sums.total(layer, kPartsOfBlock, z, channel) * share));
      for (int copy = 0; copy < fold; ++copy) origins.values[z][copy * layer.channels + channel] = origin;
    }
  }
  __syncthreads();  // the origins are there, and their sums no longer needed

  Acc numbers[kChannels][kDistsStatistics] = {};
  if (walk.packs > 0) {
    Triple<Acc> origin[kChannels];
#pragma unroll
    for (int z = 0; z < kTriple; ++z) {
      origins.values[z].template load<kChannels>(walk.column, [&](int k, Acc at) { origin[k].values[z] = at; });
    }
    sum_pixels<kWidth, kNhwc>(walk, x, y, origin, numbers);
  }
  sums.template add_lanes<kNhwc>(layer, walk.column, numbers);
}

// The slots of a group's chunks, of its `channels`, added up by warps.
template <class T>
__device__ __forceinline__ void add_slots(const DistsEntry<T>& layer, int channels,
                                          const DeviceAccumulator<T>* slots,  // (chunks, 6, span)
                                          ChannelSums<T>& sums) {
  using Acc = DeviceAccumulator<T>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, span = layer.span;
  for (int i = lane; i < channels; i += kWarp) {
    Acc numbers[kDistsStatistics] = {};
#pragma unroll 4
    for (uint32_t chunk = warp; chunk < layer.chunks; chunk += kDistsWarps) {
      const Acc* slot = slots + int64_t(chunk) * kDistsStatistics * span + i;
#pragma unroll
      for (int z = 0; z < kDistsStatistics; ++z) numbers[z] += slot[z * span];
    }
#pragma unroll
    for (int z = 0; z < kDistsStatistics; ++z) sums.parts[warp][z][i] = numbers[z];
  }
}

// Writes the statistics of a channel, `i` of the group's, and returns what it adds to the value of its layer.
template <class T>
__device__ __forceinline__ DeviceAccumulator<T> channel_value(const DistsEntry<T>& layer, const DistsPlace& place,
                                                              int i, const Origins<T>& origins,
                                                              const ChannelSums<T>& sums) {
  using Acc = DeviceAccumulator<T>;
  const int64_t channel = int64_t(place.group) * layer.span + i, channels = layer.channels;
  Acc* statistics = layer.statistics + place.n * kDistsStatistics * channels + channel;
  const Acc share = Acc(1) / Acc(layer.pixels);
  Acc mean[kTriple], variance[kTriple];
#pragma unroll
  for (int z = 0; z < kTriple; ++z) {
    Acc sum = 0, squares = 0;
    for (int part = 0; part < kDistsWarps; ++part) {
      sum += sums.parts[part][z][i];
      squares += sums.parts[part][kTriple + z][i];
    }
    const Acc distance = sum * share, found = squares * share - distance * distance;
    mean[z] = origins.values[z][i] + distance;
    variance[z] = found < Acc(0) ? Acc(0) : found;  // NaN stays
    statistics[z * channels] = mean[z];
    statistics[(kTriple + z) * channels] = variance[z];
  }
  const Acc eps = Acc(kDistsEps);
  const Acc of_means = mean[kError] * mean[kError] / (mean[kX] * mean[kX] + mean[kY] * mean[kY] + eps);
  const Acc of_structures = variance[kError] / (variance[kX] + variance[kY] + eps);
  return layer.alpha[channel] * of_means + layer.beta[channel] * of_structures;
}

// Adds up the groups of a sample: its layers' values and its loss. One block.
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
  PO_SHARED(Origins<T>, origins);
  PO_SHARED(ChannelSums<T>, sums);
  const DistsPlace place = dists_place(table);
  const DistsEntry<T>& layer = table.layers[place.layer];
  dispatch_walk(layer, [&](auto width, auto nhwc) {
    observe<decltype(width)::value, decltype(nhwc)::value>(layer, place, origins, sums);
  });
  __syncthreads();  // every warp's sums are there

  const int i = threadIdx.x, channels = group_channels(layer, place);
  const uint32_t group = place.n * layer.groups + place.group;
  const int64_t slot_size = int64_t(kDistsStatistics) * layer.span;
  Acc* slots = table.partial + layer.partial + int64_t(group) * layer.chunks * slot_size;
  if (i < channels) {
    Acc* slot = slots + place.chunk * slot_size + i;
    const int used = layer.nhwc ? kDistsWarps : 1;
    for (int z = 0; z < kDistsStatistics; ++z) slot[z * layer.span] = sums.total(layer, used, z, i);
  }
  if (!arrives_last(table.arrived + table.batch + layer.first_group + group, layer.chunks)) return;
  add_slots(layer, channels, slots, sums);
  __syncthreads();  // every warp's slots are added up
  const Acc value = block_sum<kDistsThreads>(i < channels ? channel_value(layer, place, i, origins, sums) : Acc(0));
  if (i == 0) table.of_groups[layer.first_group + group] = value;
  if (arrives_last(table.arrived + place.n, table.groups)) finish_sample(table, place.n);
}

}  // namespace perceptual_ops
