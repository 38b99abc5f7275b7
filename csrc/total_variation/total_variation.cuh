// Kernel of the total variation: values and gradient in one pass. A thread takes a strip: the same columns of a few
// rows that lie below each other, sixteen bytes of each where rows allow it. The neighbours above and below are then
// its own, those to the side its own or its neighbour's, which the cache answers, as it does where strips meet.
//
// Bound by memory: an element is read once and written once, against 10 to 20 instructions. Targets on every
// architecture: at most 128 registers, for 2 blocks (512 threads) an SM; each thread has its loads of 16 bytes, 4 rows
// and the 2 around them, in flight before it uses the first (ptxas delays some of the 16-bit rows: at least 2),
// together 16 to 48 KB per SM, where an H200 needs about 25 KB to saturate its memory, half of it for writing. Shared
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

// The neighbours to the left and right of a pack, outside of it. Rows are whole packs: either all of one side are in
// the row or none, and a part of the next pack holds them, which begins at a multiple of its own size.
template <class T, int kWidth, int kStep>
struct Sides {
  static constexpr int kOut = kEdge<kWidth, kStep>, kIn = kWidth - kOut, kPart = kOut == 3 ? 4 : kOut;
  static_assert(kIn >= 0, "the neighbour of a neighbour is not loaded");
  bool has_left, has_right;
  int to_left, to_right;  // from the pack to the parts; to the pack itself where there is none
  Pack<T, kPart> left_parts[kStripRows], right_parts[kStripRows];

  // Of a pack at column `i` of its row.
  __device__ __forceinline__ Sides(const Strips& strips, int i)
      : has_left(i >= strips.step), has_right(i + kIn + strips.step < strips.length) {
    to_left = !has_left ? 0 : kStep == kAnyStep ? -strips.step : -kPart;
    to_right = !has_right ? 0 : kStep == kAnyStep ? strips.step : kWidth;
  }
  // Those of row `r` of the strip.
  __device__ __forceinline__ void load(int r, const T* here, bool with_left) {
    right_parts[r] = load_pack<T, kPart>(here + to_right);
    if (with_left) left_parts[r] = load_pack<T, kPart>(here + to_left);
  }
  __device__ __forceinline__ DeviceAccumulator<T> left(int r, int k) const {
    return widen(left_parts[r], k + kPart - kOut);
  }
  __device__ __forceinline__ DeviceAccumulator<T> right(int r, int k, const Pack<T, kWidth>& here) const {
    return k < kIn ? widen(here, k + kOut) : widen(right_parts[r], k - kIn);
  }
};

// The sum of distances that begin in a strip, and the gradient with respect to its elements. A pixel is the right end
// of one difference and the left end of another, likewise below and above. The strip begins at `x`, column `i` of row
// `row`.
template <Distance kDistance, Wanted kWanted, int kWidth, int kStep, class T, class Acc>
__device__ __forceinline__ Acc walk_strip(const T* x, const Strips& strips, int row, int i, Acc grad, T* dx) {
  Pack<T, kWidth> lines[kStripRows + 2];  // with the row above and the row below
  Sides<T, kWidth, kStep> sides(strips, i);
  // Load. Out of bounds, the nearest row: without branches, here and at their use, all loads are issued together.
#pragma unroll
  for (int r = kWantsGradient<kWanted> ? 0 : 1; r < kStripRows + 2; ++r) {
    const int nearest = max(0, min(row + r - 1, strips.height - 1));
    const T* here = x + int64_t(nearest - row) * strips.length;
    lines[r] = load_pack<T, kWidth>(here);
    if (r > 0 && r <= kStripRows) sides.load(r - 1, here, kWantsGradient<kWanted>);
  }
  // Compute, store.
  const auto point = [](bool exists, Acc to, Acc from) {
    return distance_at<kDistance>(exists ? to - from : Acc(0), Acc(0));
  };
  Acc sum = 0, up[kWidth];  // slopes of the differences to the row above
#pragma unroll
  for (int k = 0; k < kWidth && kWantsGradient<kWanted>; ++k) {
    up[k] = point(row > 0, widen(lines[1], k), widen(lines[0], k)).slope;
  }
#pragma unroll
  for (int r = 0; r < kStripRows; ++r) {
    constexpr int kOut = kEdge<kWidth, kStep>, kIn = kWidth - kOut;
    const Pack<T, kWidth>&line = lines[r + 1], &below = lines[r + 2];
    const bool has_below = row + r + 1 < strips.height, inside = row + r < strips.height;
    Acc gradient[kWidth], slopes[kWidth], row_sum = 0;  // slopes of the differences to the right
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const auto right = point(k < kIn || sides.has_right, sides.right(r, k, line), widen(line, k));
      const auto down = point(has_below, widen(below, k), widen(line, k));
      if constexpr (kWantsValue<kWanted>) row_sum += right.value + down.value;
      if constexpr (kWantsGradient<kWanted>) {
        slopes[k] = right.slope;
        const Acc left = k < kOut ? point(sides.has_left, widen(line, k), sides.left(r, k)).slope : slopes[k - kOut];
        gradient[k] = grad * (left - right.slope + up[k] - down.slope);
        up[k] = down.slope;
      }
    }
    if (kWantsValue<kWanted> && inside) sum += row_sum;
    if constexpr (kWantsGradient<kWanted>) {
      if (inside) store_pack(dx + int64_t(r) * strips.length, narrow_pack<T, kWidth>(gradient));
    }
  }
  return sum;
}

// Grid: N * blocks, blocks innermost.
template <class T, Distance kDistance, Wanted kWanted, int kWidth, int kStep>
__global__ void __launch_bounds__(kVariationThreads, kVariationBlocks)
    total_variation_kernel(const T* __restrict__ x,  // (N, planes, H, length)
                           int64_t stride_n, int64_t size, const Strips strips,
                           const DeviceAccumulator<T>* __restrict__ grad,                    // (N) or null
                           T* __restrict__ dx,                                               // (N, planes, H, length)
                           DeviceAccumulator<T>* partial,                                    // (N, blocks)
                           uint32_t* arrivals, DeviceAccumulator<T>* __restrict__ values) {  // (N), (N)
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
  // Reduce.
  if constexpr (kWantsValue<kWanted>) {
    Acc* slots = partial + int64_t(n) * strips.blocks;
    Acc all;
    if (!ends_sum<kVariationThreads>(sum, block, strips.blocks, slots, arrivals + n, all)) return;
    if (threadIdx.x == 0) values[n] = all;
  }
}

}  // namespace perceptual_ops
