// LPIPS of any map, NCHW above all: the threads of a block cut a tile of pixels by channels, each walks its channels of
// kWidth pixels, and their sums meet in shared memory.
//
// What a thread reads of up to kHeldChannels channels (128 in a block by packs, 32 by single elements) it keeps. Of
// wider maps it reads everything again for the second sum and for the gradient: tiles are one line of 128 bytes a
// channel, so that 256 channels of x and y, 64 KB, come from an SM's L1 and 512 from the L2, three reads of it for one
// of memory. Singles, where pixels or planes do not come in packs, are read by 32 lanes side by side; of odd NHWC maps
// they lie apart, and the L1 gathers them.
#pragma once

#include "../common/reduce.cuh"
#include "pixel.cuh"

namespace perceptual_ops {

constexpr int kHeldChannels = 4;  // of x, and as many of y: 8 loads under way in a thread
constexpr int kLpipsWarps = kLpipsThreads / kWarp;

// How a tile lies on a block's threads: lanes side by side along pixels, slices of them along channels.
template <int kWidth>
struct TileShape {
  static constexpr int kLanes = kWidth == 1 ? kWarp : 8;
  static constexpr int kPixels = kLanes * kWidth;
  static constexpr int kSlices = kLpipsThreads / kLanes;
  static_assert(3 * kPixels <= kLpipsThreads, "a thread finishes one sum of one pixel");
};

// What a tile's threads tell each other. Pixel k of a lane is number k * kLanes + lane: lanes write side by side.
template <class Acc, int kPixels>
struct TileSums {
  Acc parts[3][kLpipsWarps][kPixels];
  Acc sums[3][kPixels];
  Length<Acc> lengths[2][kPixels];
};

template <int kWidth, int kGradients, class T>
struct TileWalk {
  using Acc = DeviceAccumulator<T>;
  using Shape = TileShape<kWidth>;
  using Shared = TileSums<Acc, Shape::kPixels>;
  static constexpr int kStep = kHeldChannels * Shape::kSlices;

  const PixelRun<T>& run;
  Shared& shared;
  const int lane = threadIdx.x % Shape::kLanes, slice = threadIdx.x / Shape::kLanes;
  int pixel;    // of the run, the thread's first
  bool inside;  // is it in the run
  Pack<T, kWidth> xs[kHeldChannels], ys[kHeldChannels];
  Acc weights[kHeldChannels];

  __device__ __forceinline__ TileWalk(const PixelRun<T>& run, Shared& shared) : run(run), shared(shared) {}

  __device__ __forceinline__ int64_t place(int channel) const { return channel * run.stride_c + pixel * run.stride_p; }

  // Calls f for every kStep channels, with the thread's part of them in xs and ys. Channels that are not there are
  // zero.
  template <class F>
  __device__ __forceinline__ void for_channels(bool loaded, F&& f) {
    for (int first = slice; first - slice < run.channels; first += kStep) {
      if (!loaded) {
#pragma unroll
        for (int j = 0; j < kHeldChannels; ++j) {
          const int channel = first + j * Shape::kSlices;
          const bool there = inside && channel < run.channels;
          xs[j] = there ? load_pack<T, kWidth>(run.x + place(channel)) : Pack<T, kWidth>{};
          ys[j] = there ? load_pack<T, kWidth>(run.y + place(channel)) : Pack<T, kWidth>{};
          weights[j] = there ? load_pack<Acc, 1>(run.weights + channel).values[0] : Acc(0);
        }
      }
      f(first);
    }
  }

  // Adds this thread's numbers to those of its warp's other slices, for finished_sum after a barrier.
  __device__ __forceinline__ void share(int which, const Acc (&values)[kWidth]) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      Acc value = values[k];
#pragma unroll
      for (int offset = Shape::kLanes; offset < kWarp; offset *= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, offset);
      }
      if (threadIdx.x % kWarp < Shape::kLanes) {
        shared.parts[which][threadIdx.x / kWarp][k * Shape::kLanes + lane] = value;
      }
    }
  }

  __device__ __forceinline__ Acc finished_sum(int which, int number) const {
    Acc sum = 0;
#pragma unroll
    for (int warp = 0; warp < kLpipsWarps; ++warp) sum += shared.parts[which][warp][number];
    return sum;
  }

  __device__ __forceinline__ void find_lengths() {
    Acc x_squares[kWidth] = {}, y_squares[kWidth] = {};
    for_channels(false, [&](int) {
#pragma unroll
      for (int j = 0; j < kHeldChannels; ++j) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          x_squares[k] += widen(xs[j].values[k]) * widen(xs[j].values[k]);
          y_squares[k] += widen(ys[j].values[k]) * widen(ys[j].values[k]);
        }
      }
    });
    share(0, x_squares);
    share(1, y_squares);
    __syncthreads();
    const int which = threadIdx.x / Shape::kPixels, number = threadIdx.x % Shape::kPixels;
    if (which < 2) shared.lengths[which][number] = Length<Acc>::of(finished_sum(which, number), run.norm);
    __syncthreads();
  }

  // -> this thread's part of the sum of distances
  __device__ __forceinline__ Acc find_sums(int first_pixel, bool held) {
    Acc distances[kWidth] = {}, along_x[kWidth] = {}, along_y[kWidth] = {};
    for_channels(held, [&](int) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const int number = k * Shape::kLanes + lane;
        const Length<Acc> of_x = shared.lengths[0][number], of_y = shared.lengths[1][number];
        Along<Acc> along{distances[k], along_x[k], along_y[k]};
#pragma unroll
        for (int j = 0; j < kHeldChannels; ++j) {
          along.template add<kGradients>({widen(xs[j].values[k]), widen(ys[j].values[k]), weights[j], of_x, of_y});
        }
        distances[k] = along.distance, along_x[k] = along.x, along_y[k] = along.y;
      }
    });
    const bool map = kGradients == 0 && run.map;
    if (map) share(0, distances);
    if constexpr (kGradients > 0) share(1, along_x);
    if constexpr (kGradients > 1) share(2, along_y);
    if (map || kGradients > 0) {
      __syncthreads();
      const int which = threadIdx.x / Shape::kPixels, number = threadIdx.x % Shape::kPixels;
      const int other = first_pixel + number % Shape::kLanes * kWidth + number / Shape::kLanes;
      if (map && which == 0 && other < run.count) run.map[other] = finished_sum(0, number);
      if (which > 0 && which <= kGradients) shared.sums[which][number] = finished_sum(which, number);
      __syncthreads();
    }
    Acc sum = 0;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum += distances[k];
    return sum;
  }

  __device__ __forceinline__ void store_gradients(bool held) {
    for_channels(held, [&](int first) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const int number = k * Shape::kLanes + lane;
        const Length<Acc> of_x = shared.lengths[0][number], of_y = shared.lengths[1][number];
        const Along<Acc> along{Acc(0), shared.sums[1][number], kGradients > 1 ? shared.sums[2][number] : Acc(0)};
        const Acc upstream = inside ? run.upstream(pixel + k) : Acc(0);
#pragma unroll
        for (int j = 0; j < kHeldChannels; ++j) {
          slopes_in_place<kGradients>(xs[j].values[k], ys[j].values[k], weights[j], of_x, of_y, along, upstream);
        }
      }
#pragma unroll
      for (int j = 0; j < kHeldChannels; ++j) {
        const int channel = first + j * Shape::kSlices;
        if (!inside || channel >= run.channels) continue;
        store_pack(run.dx + place(channel), xs[j]);
        if constexpr (kGradients > 1) store_pack(run.dy + place(channel), ys[j]);
      }
    });
  }
};

// This thread's part of the sum of distances of a run of pixels; the run is a multiple of kWidth.
template <int kWidth, int kGradients, class T>
__device__ __forceinline__ DeviceAccumulator<T> walk_tiles(const PixelRun<T>& run) {
  using Walk = TileWalk<kWidth, kGradients, T>;
  PO_SHARED(typename Walk::Shared, shared);
  Walk walk(run, shared);
  const bool held = run.channels <= Walk::kStep;
  DeviceAccumulator<T> sum = 0;
  for (int first = 0; first < run.count; first += Walk::Shape::kPixels) {
    walk.pixel = first + walk.lane * kWidth;
    walk.inside = walk.pixel < run.count;
    walk.find_lengths();
    sum += walk.find_sums(first, held);
    if constexpr (kGradients > 0) walk.store_gradients(held);
  }
  return sum;
}

}  // namespace perceptual_ops
