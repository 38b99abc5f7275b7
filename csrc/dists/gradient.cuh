// Kernel of the gradient of the DISTS distance, in one launch over all layers. Given the statistics, a pixel's gradient
// is linear in its deviations from the means, with coefficients that a block computes once for its channels.
//
// Bound by memory: 2 inputs read and 1 or 2 outputs written an element, against about 10 instructions for each output.
// Targets on every architecture: at most 128 registers, for 2 blocks (512 threads) an SM; each thread has 6 loads of 16
// bytes in flight before it uses the first, together at least 48 KB per SM. Shared memory: 3.5 KB a block.
#pragma once

#include "../common/shared.cuh"
#include "dists.cuh"

namespace perceptual_ops {

// With respect to which inputs a gradient is wanted.
enum class Inputs : int8_t { kX, kY, kBoth };

template <Inputs kInputs>
constexpr bool kWantsX = kInputs != Inputs::kY;
template <Inputs kInputs>
constexpr bool kWantsY = kInputs != Inputs::kX;

// The gradient with respect to a pixel of a channel:
// dx = base_x + by_error * ((e - mean e) - ratio * (x - mean x)), dy = base_y - by_error * ((e - mean e) + ratio * (y -
// mean y)).
template <class Acc>
struct ChannelSlope {
  Acc mean[kObserved<2>];
  Acc base_x, base_y;  // through the means
  Acc by_error;        // through the variances
  Acc ratio;           // of the error's variance to the others'

  __device__ __forceinline__ Acc of_x(Acc x, Acc y) const {
    return base_x + by_error * ((x - y - mean[kError]) - ratio * (x - mean[kX]));
  }
  __device__ __forceinline__ Acc of_y(Acc x, Acc y) const {
    return base_y - by_error * ((x - y - mean[kError]) + ratio * (y - mean[kY]));
  }
};

// The slopes of a block's channels, in shared memory.
template <class T>
struct BlockSlopes {
  using Acc = DeviceAccumulator<T>;
  ChannelNumbers<T> mean[kObserved<2>], base_x, base_y, by_error, ratio;

  __device__ __forceinline__ void set(int channel, const ChannelSlope<Acc>& slope) {
#pragma unroll
    for (int z = 0; z < kObserved<2>; ++z) mean[z][channel] = slope.mean[z];
    base_x[channel] = slope.base_x;
    base_y[channel] = slope.base_y;
    by_error[channel] = slope.by_error;
    ratio[channel] = slope.ratio;
  }

  // Those of a thread's channels.
  template <int kChannels>
  __device__ __forceinline__ void load(int column, ChannelSlope<Acc> (&slopes)[kChannels]) const {
#pragma unroll
    for (int z = 0; z < kObserved<2>; ++z) {
      mean[z].template load<kChannels>(column, [&](int k, Acc number) { slopes[k].mean[z] = number; });
    }
    base_x.template load<kChannels>(column, [&](int k, Acc number) { slopes[k].base_x = number; });
    base_y.template load<kChannels>(column, [&](int k, Acc number) { slopes[k].base_y = number; });
    by_error.template load<kChannels>(column, [&](int k, Acc number) { slopes[k].by_error = number; });
    ratio.template load<kChannels>(column, [&](int k, Acc number) { slopes[k].ratio = number; });
  }
};

// `factor`: the upstream gradient over the pixels.
template <class T>
__device__ __forceinline__ ChannelSlope<DeviceAccumulator<T>> channel_slope(const DistsEntry<T>& layer, uint32_t n,
                                                                            uint32_t channel,
                                                                            DeviceAccumulator<T> factor) {
  using Acc = DeviceAccumulator<T>;
  const Acc* statistics = layer.statistics + n * int64_t(kDistsStatistics) * layer.channels + channel;
  const auto at = [&](int number) {
    return load_pack<Acc, 1>(statistics + int64_t(number) * layer.channels).values[0];
  };
  ChannelSlope<Acc> slope;
#pragma unroll
  for (int z = 0; z < kObserved<2>; ++z) slope.mean[z] = at(z);
  const Acc x = slope.mean[kX], y = slope.mean[kY], eps = Acc(kDistsEps);
  const Acc of_means = slope.mean[kError] / (x * x + y * y + eps);
  const Acc twice_alpha = factor * Acc(2) * layer.alpha[channel];
  slope.base_x = twice_alpha * of_means * (Acc(1) - x * of_means);
  slope.base_y = -twice_alpha * of_means * (Acc(1) + y * of_means);
  const Acc variances = at(kObserved<2> + kX) + at(kObserved<2> + kY) + eps;
  slope.by_error = factor * Acc(2) * layer.beta[channel] / variances;
  slope.ratio = at(kObserved<2> + kError) / variances;
  return slope;
}

// The gradients of a thread's pixels.
template <int kWidth, bool kNhwc, Inputs kInputs, class T>
__device__ __forceinline__ void slope_walk(const DistsEntry<T>& layer, const DistsPlace& place,
                                           const BlockSlopes<T>& slopes) {
  using Acc = DeviceAccumulator<T>;
  constexpr int kChannels = kNhwc ? kWidth : 1;
  const ThreadWalk walk = thread_walk<kChannels, kNhwc>(layer, place);
  if (walk.packs == 0) return;
  const T* x = layer.x + place.n * layer.stride_x + walk.first;
  const T* y = layer.y + place.n * layer.stride_y + walk.first;
  const int64_t written = place.n * layer.pixels * layer.channels + walk.first;
  ChannelSlope<Acc> slope[kChannels];
  slopes.load(walk.column, slope);

  for (int i = 0; i < walk.packs; i += kLoads<2>) {
    // Load.
    Pack<T, kWidth> xs[kLoads<2>], ys[kLoads<2>];
#pragma unroll
    for (int j = 0; j < kLoads<2>; ++j) {
      // Out of bounds, the last pack again: without branches all loads are issued together.
      const int64_t at = min(i + j, walk.packs - 1) * walk.step;
      xs[j] = load_pack<T, kWidth>(x + at);
      ys[j] = load_pack<T, kWidth>(y + at);
    }
    // Compute, store.
#pragma unroll
    for (int j = 0; j < kLoads<2>; ++j) {
      if (i + j >= walk.packs) break;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const ChannelSlope<Acc>& of = slope[kNhwc ? k : 0];
        const Acc x_value = widen(xs[j].values[k]), y_value = widen(ys[j].values[k]);
        if constexpr (kWantsX<kInputs>) xs[j].values[k] = narrow<T>(of.of_x(x_value, y_value));
        if constexpr (kWantsY<kInputs>) ys[j].values[k] = narrow<T>(of.of_y(x_value, y_value));
      }
      const int64_t at = written + (i + j) * walk.step;
      if constexpr (kWantsX<kInputs>) store_pack(layer.dx + at, xs[j]);
      if constexpr (kWantsY<kInputs>) store_pack(layer.dy + at, ys[j]);
    }
  }
}

template <class T, Inputs kInputs>
__global__ void __launch_bounds__(kDistsThreads, kDistsBlocks)
    dists_backward_kernel(const __grid_constant__ DistsTable<T> table) {
  using Acc = DeviceAccumulator<T>;
  PO_SHARED(BlockSlopes<T>, slopes);
  const DistsPlace place = dists_place(table);
  const DistsEntry<T>& layer = table.layers[place.layer];
  const int channels = layer.columns * (layer.nhwc && layer.packed ? kPackWidth<T> : 1);
  const int i = threadIdx.x;
  const uint32_t channel = place.group * channels + i;
  if (i < channels && channel < layer.memory_channels) {
    const Acc factor = table.grad[place.n] / Acc(layer.pixels);
    slopes.set(i, channel_slope(layer, place.n, channel % layer.channels, factor));
  }
  __syncthreads();  // the block's numbers are there
  dispatch_walk<T>(layer, [&](auto width, auto nhwc) {
    slope_walk<decltype(width)::value, decltype(nhwc)::value, kInputs>(layer, place, slopes);
  });
}

}  // namespace perceptual_ops
