// Numbers of the channels of a block, and their sums over its threads, in shared memory.
#pragma once

#include "../common/shared.cuh"
#include "walk.cuh"

namespace perceptual_ops {

// A number for each of a block's channels in memory, in shared memory. Threads take single channels, or those of their
// pack by 16 bytes. XOR swizzle against bank conflicts: where a pack has 32 bytes of numbers, threads four apart
// would share banks, so units are swapped with their neighbours in every other 128 bytes.
template <class T>
struct ChannelNumbers {
  using Acc = DeviceAccumulator<T>;
  static constexpr int kUnit = kPackWidth<Acc>;

  static __device__ __forceinline__ int place(int channel) { return channel ^ channel / 32 % 2 * 4; }

  __device__ __forceinline__ Acc& operator[](int channel) { return values[place(channel)]; }
  __device__ __forceinline__ Acc operator[](int channel) const { return values[place(channel)]; }

  // number(k) of channel k of a thread's.
  template <int kChannels, class F>
  __device__ __forceinline__ void store(int column, F&& number) {
    if constexpr (kChannels == 1) {
      (*this)[column] = number(0);
    } else {
#pragma unroll
      for (int first = 0; first < kChannels; first += kUnit) {
        Pack<Acc> unit;
#pragma unroll
        for (int k = 0; k < kUnit; ++k) unit.values[k] = number(first + k);
        *reinterpret_cast<Pack<Acc>*>(&(*this)[column * kChannels + first]) = unit;
      }
    }
  }

  // Calls f(k, number of channel k of a thread's).
  template <int kChannels, class F>
  __device__ __forceinline__ void load(int column, F&& f) const {
    if constexpr (kChannels == 1) {
      f(0, (*this)[column]);
    } else {
#pragma unroll
      for (int first = 0; first < kChannels; first += kUnit) {
        const auto unit = *reinterpret_cast<const Pack<Acc>*>(values + place(column * kChannels + first));
#pragma unroll
        for (int k = 0; k < kUnit; ++k) f(first + k, unit.values[k]);
      }
    }
  }

  alignas(16) Acc values[kDistsSpan<T>];
};

// Sums of parts of a block's threads, at most kMaxNumbers numbers for each of its channels in memory, in shared memory.
template <class T, int kMaxNumbers>
struct ChannelSums {
  using Acc = DeviceAccumulator<T>;
  ChannelNumbers<T> parts[kDistsWarps][kMaxNumbers];

  // Shuffle reduction over the lanes with the same channels. Called by all threads of a block. NHWC: each warp
  // leaves a part. NCHW: a warp has a channel of its own, of which its lanes are all.
  template <bool kNhwc, int kChannels, int kNumbers>
  __device__ __forceinline__ void add_lanes(const LayerWalk& layer, int column, Acc (&numbers)[kChannels][kNumbers]) {
    const int lane = threadIdx.x % kWarp, lanes = kNhwc ? layer.columns : 1;
    for (int distance = lanes; distance < kWarp; distance *= 2) {
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
#pragma unroll
        for (int i = 0; i < kNumbers; ++i) numbers[k][i] += __shfl_xor_sync(0xffffffffu, numbers[k][i], distance);
      }
    }
    if (lane >= lanes) return;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      parts[kNhwc ? threadIdx.x / kWarp : 0][i].template store<kChannels>(column, [&](int k) { return numbers[k][i]; });
    }
  }

  // Number i of a channel of the group, over the first `used` parts in their order and the pixels that are folded.
  __device__ __forceinline__ Acc total(const LayerWalk& layer, int used, int i, int channel) const {
    Acc sum = 0;
    for (uint32_t folded = channel; folded < layer.memory_channels; folded += layer.channels) {
      for (int part = 0; part < used; ++part) sum += parts[part][i][folded];
    }
    return sum;
  }
};

}  // namespace perceptual_ops
