// LPIPS of NHWC maps whose pixels fit into registers: 2 to 32 lanes of a warp hold the channels of a pixel, kPacks
// packs of 16 bytes each, from the one time they are read until their gradients are written in their place. Sums over
// the channels are shuffles.
//
// A thread starts 6 or 8 loads before it uses the first. Lanes are as few as that allows: what is worked out once a
// pixel, roots and reciprocals, each lane does for itself, about 50 instructions beside 14 an element.
#pragma once

#include "../common/reduce.cuh"
#include "pixel.cuh"

namespace perceptual_ops {

// Pixels that a lane holds at once.
template <int kPacks>
constexpr int kLanePixels = kPacks == 2 ? 2 : 1;

// The sum over `lanes` neighbours, a power of two, in each of them.
template <class Acc>
__device__ __forceinline__ Acc lane_sum(Acc value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// A lane's part of one pixel.
template <class T, int kPacks>
struct HeldPixel {
  using Acc = DeviceAccumulator<T>;
  static constexpr int kWidth = kPackWidth<T>;
  using Weights = Acc[kPacks][kWidth];

  Pack<T> xs[kPacks], ys[kPacks];
  Length<Acc> of_x, of_y;
  Along<Acc> along;

  // Packs lie `step` elements apart, the first `place` after the run's beginning.
  __device__ __forceinline__ void load(const PixelRun<T>& run, int place, int step) {
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      xs[j] = load_pack(run.x + place + j * step);
      ys[j] = load_pack(run.y + place + j * step);
    }
  }

  __device__ __forceinline__ void find_lengths(const Norm<Acc>& norm, int lanes) {
    Acc x_squares = 0, y_squares = 0;
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        x_squares += widen(xs[j].values[k]) * widen(xs[j].values[k]);
        y_squares += widen(ys[j].values[k]) * widen(ys[j].values[k]);
      }
    }
    of_x = Length<Acc>::of(lane_sum(x_squares, lanes), norm);
    of_y = Length<Acc>::of(lane_sum(y_squares, lanes), norm);
  }

  // The distance stays a sum of this lane's channels.
  template <int kGradients>
  __device__ __forceinline__ void find_sums(const Weights& weights, int lanes) {
    along = {};
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        along.template add<kGradients>({widen(xs[j].values[k]), widen(ys[j].values[k]), weights[j][k], of_x, of_y});
      }
    }
    if constexpr (kGradients > 0) along.x = lane_sum(along.x, lanes);
    if constexpr (kGradients > 1) along.y = lane_sum(along.y, lanes);
  }

  template <int kGradients>
  __device__ __forceinline__ void store_gradients(const PixelRun<T>& run, const Weights& weights, Acc upstream,
                                                  int place, int step) {
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        slopes_in_place<kGradients>(xs[j].values[k], ys[j].values[k], weights[j][k], of_x, of_y, along, upstream);
      }
      store_pack(run.dx + place + j * step, xs[j]);
      if constexpr (kGradients > 1) store_pack(run.dy + place + j * step, ys[j]);
    }
  }
};

// This thread's part of the sum of distances of a run of pixels of lanes * kPacks packs.
template <int kPacks, int kGradients, class T>
__device__ __forceinline__ DeviceAccumulator<T> walk_lanes(const PixelRun<T>& run, int lanes) {
  using Held = HeldPixel<T, kPacks>;
  using Acc = DeviceAccumulator<T>;
  constexpr int kPixels = kLanePixels<kPacks>, kWidth = kPackWidth<T>;
  const int lane = threadIdx.x % lanes, team = threadIdx.x / lanes, teams = kLpipsThreads / lanes;
  const int step = lanes * kWidth;

  typename Held::Weights weights;
#pragma unroll
  for (int j = 0; j < kPacks; ++j) {
#pragma unroll
    for (int k = 0; k < kWidth; k += kPackWidth<Acc>) {
      const auto loaded = load_pack(run.weights + lane * kWidth + j * step + k);
#pragma unroll
      for (int i = 0; i < kPackWidth<Acc>; ++i) weights[j][k + i] = loaded.values[i];
    }
  }

  Acc sum = 0;
  for (int first = team; first - team < run.count; first += kPixels * teams) {
    Held pixels[kPixels];
    // Past the end, the last pixel again: without branches all loads start together, and every lane joins a shuffle.
    const auto place = [&](int u) { return min(first + u * teams, run.count - 1) * run.channels + lane * kWidth; };
#pragma unroll
    for (int u = 0; u < kPixels; ++u) pixels[u].load(run, place(u), step);
#pragma unroll
    for (int u = 0; u < kPixels; ++u) pixels[u].find_lengths(run.norm, lanes);
#pragma unroll
    for (int u = 0; u < kPixels; ++u) pixels[u].template find_sums<kGradients>(weights, lanes);
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
      const int pixel = first + u * teams;
      const bool inside = pixel < run.count;
      if (kGradients > 0 && inside) {
        pixels[u].template store_gradients<kGradients>(run, weights, run.upstream(pixel), place(u), step);
      }
      if (kGradients == 0 && run.map) {
        const Acc distance = lane_sum(pixels[u].along.distance, lanes);
        if (inside && lane == 0) run.map[pixel] = distance;
      }
      sum += inside ? pixels[u].along.distance : Acc(0);
    }
  }
  return sum;
}

}  // namespace perceptual_ops
