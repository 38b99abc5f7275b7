// Kernel of the total variation: values and gradient in one pass. A thread takes a strip: the same columns of a few
// rows that lie below each other, sixteen bytes of each where rows allow it. The neighbours above and below are then
// its own, those to the side its own or its neighbour's, which the cache answers, as it does where strips meet.
//
// Bound by memory: an element is read once and written once, against 10 to 20 instructions. Targets on every
// architecture: at most 128 registers, for 2 blocks (512 threads) an SM; each thread has its loads of 16 bytes, 4 rows
// and the 2 around them, under way before it uses the first (ptxas holds some of the 16-bit rows back: at least 2),
// together 16 to 48 KB an SM, where an H200 needs about 25 KB to keep its memory busy, half of it for writing. Shared
// memory: under 100 bytes.
#pragma once

#include "../common/cuda_element.cuh"
#include "../common/last_block.cuh"
#include "../common/vec.cuh"
#include "total_variation.h"

namespace perceptual_ops {

constexpr int kVariationThreads = 256;
constexpr int kStripRows = 4;
constexpr int kVariationBlocks = 2;  // an SM

// Steps that a kernel is compiled for are 1, planes, and 3, colours side by side: of the neighbours to the side it
// reads what its pack does not hold. For any other step it goes by single elements, whose neighbours are all read.
constexpr int kAnyStep = 0;

// Images cut into strips; all counts under 2^31 (total_variation.cu checks): a 64-bit division would be a call that
// spills.
struct Strips {
  int height, length, step;  // of ImageRows
  uint32_t columns;          // a row: length / kWidth
  uint32_t rows;             // of strips a plane: ceil(H / kStripRows)
  uint32_t count;            // an image
  uint32_t blocks;           // an image
};

// Elements of a pack whose neighbour to one side lies outside it.
template <int kWidth, int kStep>
constexpr int kEdge = kStep == kAnyStep ? kWidth : kStep;

// The neighbours of a pack to its left and right, from where the pack lies at column `i` of its row.
template <class T, int kWidth, int kStep>
struct Sides {
  static constexpr int kOut = kEdge<kWidth, kStep>, kIn = kWidth - kOut;
  static_assert(kIn >= 0, "the neighbour of a neighbour is not loaded");
  T left_edge[kOut], right_edge[kOut];

  __device__ __forceinline__ void load(const T* here, const Strips& strips, int i, bool with_left) {
#pragma unroll
    for (int k = 0; k < kOut; ++k) {
      // Outside the row, an element of the pack.
      right_edge[k] = here[i + kIn + k + strips.step < strips.length ? kIn + k + strips.step : k];
      if (with_left) left_edge[k] = here[i + k >= strips.step ? k - strips.step : k];
    }
  }
  __device__ __forceinline__ T right(const Pack<T, kWidth>& here, int k) const {
    return k < kIn ? here.values[k + kOut] : right_edge[k - kIn];
  }
};

// The sum of distances that begin in a strip, and the gradient by its elements. A pixel is the right end of one
// difference, the left end of another, and so below and above. The strip begins at `x`, column `i` of row `row`.
template <Distance kDistance, Wanted kWanted, int kWidth, int kStep, class T, class Acc>
__device__ __forceinline__ Acc walk_strip(const T* x, const Strips& strips, int row, int i, Acc grad, T* dx) {
  Pack<T, kWidth> lines[kStripRows + 2];  // with the row above and the row below
  // Outside the plane, the nearest row: without branches, also where they are used, all loads start together.
#pragma unroll
  for (int r = kWantsGradient<kWanted> ? 0 : 1; r < kStripRows + 2; ++r) {
    const int nearest = max(0, min(row + r - 1, strips.height - 1));
    lines[r] = load_pack<T, kWidth>(x + int64_t(nearest - row) * strips.length);
  }
  const auto point = [](bool exists, T to, T from) {
    return distance_at<kDistance>(exists ? widen(to) - widen(from) : Acc(0), Acc(0));
  };
  Acc sum = 0, up[kWidth];  // slopes of the differences to the row above
#pragma unroll
  for (int k = 0; k < kWidth && kWantsGradient<kWanted>; ++k) {
    up[k] = point(row > 0, lines[1].values[k], lines[0].values[k]).slope;
  }
#pragma unroll
  for (int r = 0; r < kStripRows; ++r) {
    const bool inside = row + r < strips.height;
    const Pack<T, kWidth>&line = lines[r + 1], &below = lines[r + 2];
    Sides<T, kWidth, kStep> sides;
    sides.load(x + int64_t(min(r, strips.height - 1 - row)) * strips.length, strips, i, kWantsGradient<kWanted>);
    Pack<T, kWidth> gradient;
    Acc slopes[kWidth];  // of the differences to the right
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const auto right = point(inside && i + k + strips.step < strips.length, sides.right(line, k), line.values[k]);
      const auto down = point(row + r + 1 < strips.height, below.values[k], line.values[k]);
      if constexpr (kWantsValue<kWanted>) sum += right.value + down.value;
      if constexpr (kWantsGradient<kWanted>) {
        constexpr int kOut = kEdge<kWidth, kStep>;
        slopes[k] = right.slope;
        const Acc left =
            k < kOut ? point(i + k >= strips.step, line.values[k], sides.left_edge[k]).slope : slopes[k - kOut];
        gradient.values[k] = narrow<T>(grad * (left - right.slope + up[k] - down.slope));
        up[k] = down.slope;
      }
    }
    if (kWantsGradient<kWanted> && inside) store_pack(dx + int64_t(r) * strips.length, gradient);
  }
  return sum;
}

// Grid: N * blocks, blocks innermost.
template <class T, Distance kDistance, Wanted kWanted, int kWidth, int kStep>
__global__ void __launch_bounds__(kVariationThreads, kVariationBlocks)
    total_variation_kernel(const T* __restrict__ x,  // (N, planes, H, length)
                           int64_t stride_n, int64_t size, const Strips strips,
                           const DeviceAccumulator<T>* __restrict__ grad,                   // (N) or null
                           T* __restrict__ dx,                                              // (N, planes, H, length)
                           DeviceAccumulator<T>* partial,                                   // (N, blocks)
                           uint32_t* arrived, DeviceAccumulator<T>* __restrict__ values) {  // (N), (N)
  using Acc = DeviceAccumulator<T>;
  const uint32_t n = blockIdx.x / strips.blocks, block = blockIdx.x % strips.blocks;
  const uint32_t strip = block * kVariationThreads + threadIdx.x;
  Acc sum = 0;
  if (strip < strips.count) {
    const uint32_t column = strip % strips.columns, strip_row = strip / strips.columns;
    const int row = strip_row % strips.rows * kStripRows, i = column * kWidth;
    const int64_t place = (int64_t(strip_row / strips.rows) * strips.height + row) * strips.length + i;
    const Acc upstream = kWantsGradient<kWanted> && grad ? grad[n] : Acc(1);
    T* out = kWantsGradient<kWanted> ? dx + n * size + place : nullptr;
    sum = walk_strip<kDistance, kWanted, kWidth, kStep>(x + n * stride_n + place, strips, row, i, upstream, out);
  }
  if constexpr (kWantsValue<kWanted>) {
    Acc* slots = partial + int64_t(n) * strips.blocks;
    Acc all;
    if (!ends_sum<kVariationThreads>(sum, block, strips.blocks, slots, arrived + n, all)) return;
    if (threadIdx.x == 0) values[n] = all;
  }
}

}  // namespace perceptual_ops
