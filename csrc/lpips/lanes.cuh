// LPIPS of NHWC maps whose pixels fit into registers: 2 to 32 lanes of a warp hold the channels of a pixel, kPacks
// packs of 16 bytes each, from the one time they are read until their gradients are written in their place. Sums over
// the channels are shuffles.
//
// A thread issues 6 or 8 loads before it uses the first. Lanes per pixel are as few as that allows, since each lane
// computes roots and reciprocals, about 60 instructions per pixel, for itself.
#pragma once

#include "../common/reduce.cuh"
#include "pixel.cuh"

namespace perceptual_ops {

// Pixels that a lane holds at once.
template <int kPacks>
constexpr int kLanePixels = kPacks == 2 ? 2 : 1;

// All-reduce over `lanes` neighbours, a power of two; all sums are interleaved to hide the latency of shuffles.
template <int kCount, class Acc>
__device__ __forceinline__ void lane_sums(Acc (&values)[kCount], int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] += __shfl_xor_sync(0xffffffffu, values[i], offset);
  }
}

// A lane's part of some pixels.
template <class T, int kPacks>
struct HeldPixels {
  using Acc = DeviceAccumulator<T>;
  static constexpr int kWidth = kPackWidth<T>, kPixels = kLanePixels<kPacks>;
  using Weights = Acc[kPacks][kWidth];

  Pack<T> xs[kPixels][kPacks], ys[kPixels][kPacks];
  Length<Acc> of_x[kPixels], of_y[kPixels];
  Along<Acc> along[kPixels];

  // Packs of a pixel lie `step` elements apart, the first `place` after the run's beginning.
  __device__ __forceinline__ void load(int u, const PixelRun<T>& run, int place, int step) {
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      xs[u][j] = load_pack(run.x + place + j * step);
      ys[u][j] = load_pack(run.y + place + j * step);
    }
  }

  // Calls f(pixel, x, y, weight) for every channel of this lane.
  template <class F>
  __device__ __forceinline__ void for_channels(const Weights& weights, F&& f) {
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) f(u, xs[u][j].values[k], ys[u][j].values[k], weights[j][k]);
      }
    }
  }

  __device__ __forceinline__ void find_lengths(const Weights& weights, const Norm<Acc>& norm, int lanes) {
    Acc squares[2 * kPixels] = {};
    for_channels(weights, [&](int u, T x, T y, Acc) {
      squares[2 * u] += widen(x) * widen(x);
      squares[2 * u + 1] += widen(y) * widen(y);
    });
    lane_sums(squares, lanes);
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
      of_x[u] = Length<Acc>::of(squares[2 * u], norm);
      of_y[u] = Length<Acc>::of(squares[2 * u + 1], norm);
    }
  }

  // The distances stay partial sums over this lane's channels.
  template <int kGradients>
  __device__ __forceinline__ void find_sums(const Weights& weights, int lanes) {
#pragma unroll
    for (int u = 0; u < kPixels; ++u) along[u] = {};
    for_channels(weights, [&](int u, T x, T y, Acc weight) {
      along[u].template add<kGradients>({widen(x), widen(y), weight, of_x[u], of_y[u]});
    });
    if constexpr (kGradients > 0) {
      Acc sums[kGradients * kPixels];
#pragma unroll
      for (int u = 0; u < kPixels; ++u) {
        sums[u] = along[u].x;
        if constexpr (kGradients > 1) sums[kPixels + u] = along[u].y;
      }
      lane_sums(sums, lanes);
#pragma unroll
      for (int u = 0; u < kPixels; ++u) {
        along[u].x = sums[u];
        if constexpr (kGradients > 1) along[u].y = sums[kPixels + u];
      }
    }
  }

  // `upstream`: twice that of the pixel.
  template <int kGradients>
  __device__ __forceinline__ void store_gradients(int u, const PixelRun<T>& run, const Weights& weights, Acc upstream,
                                                  int place, int step) {
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        slopes_in_place<kGradients>(xs[u][j].values[k], ys[u][j].values[k], weights[j][k], of_x[u], of_y[u], along[u],
                                    upstream);
      }
      store_pack(run.dx + place + j * step, xs[u][j]);
      if constexpr (kGradients > 1) store_pack(run.dy + place + j * step, ys[u][j]);
    }
  }
};

// This thread's part of the sum of distances of a run of pixels of lanes * kPacks packs.
template <int kPacks, int kGradients, class T>
__device__ __forceinline__ DeviceAccumulator<T> walk_lanes(const PixelRun<T>& run, int lanes) {
  using Held = HeldPixels<T, kPacks>;
  using Acc = DeviceAccumulator<T>;
  constexpr int kPixels = Held::kPixels, kWidth = Held::kWidth;
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
    Held held;
    // Out of bounds, the last pixel again: without branches all loads are issued together, and every lane takes part in
    // the shuffles.
    const auto place = [&](int u) { return min(first + u * teams, run.count - 1) * run.channels + lane * kWidth; };
    // Load.
#pragma unroll
    for (int u = 0; u < kPixels; ++u) held.load(u, run, place(u), step);
    // Reduce over the channels.
    held.find_lengths(weights, run.norm, lanes);
    held.template find_sums<kGradients>(weights, lanes);
    // Store.
    Acc distances[kPixels];
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
      const int pixel = first + u * teams;
      distances[u] = pixel < run.count ? held.along[u].distance : Acc(0);
      sum += distances[u];
      if (kGradients > 0 && pixel < run.count) {
        held.template store_gradients<kGradients>(u, run, weights, run.upstream(pixel), place(u), step);
      }
    }
    if (kGradients == 0 && run.map) {
      lane_sums(distances, lanes);
#pragma unroll
      for (int u = 0; u < kPixels; ++u) {
        if (lane == 0 && first + u * teams < run.count) run.map[first + u * teams] = distances[u];
      }
    }
  }
  return sum;
}

}  // namespace perceptual_ops
