// Warp-level products of panels. A warp computes 64 x 32 results, a lane 64 of them in the accumulator layout of mma:
// [16-row block][8-column block][row + 0 or 8, two neighbouring columns].
//
// Tensor cores truncate during accumulation, and sums of post-ReLU features only grow, so the error grows with the
// depth. Accumulator promotion bounds it: a short chain starts from zero and is added to the totals by the fp32 units,
// every 32 terms of fp16 and bfloat16, every 16 of fp32. fp32 products are 3xTF32: upper and lower parts of both
// factors without lower times lower, the small products first.
#pragma once

#include "../common/mma.cuh"
#include "panel.cuh"

namespace perceptual_ops {

constexpr int kWarpRows = 64;
constexpr int kWarpColumns = 32;
constexpr int kRowBlocks = kWarpRows / 16;
constexpr int kColumnBlocks = kWarpColumns / 8;

template <class T>
using Totals = DeviceAccumulator<T>[kRowBlocks][kColumnBlocks][4];

__device__ __forceinline__ int lane_index() { return fresh_thread_index() % 32; }

// Byte offset at which this lane reads an operand, at row 0 and depth 0 of a panel. ldmatrix takes rows of 16 bytes:
// A's four 8 x 8 matrices rows first, B's depths first. It transposes 16-bit elements only, so fp32 elements are read
// one by one where the rows are contiguous.
template <class T, bool kOfA, bool kDepthAlong>
__device__ __forceinline__ int first_place() {
  const int lane = lane_index();
  if constexpr (sizeof(T) == 4 && !kDepthAlong) return number_place<T, false>(lane / 4, lane % 4);
  const int pair = lane / 8 % 2 * 8 + lane % 8, half = lane / 16;
  return kOfA == kDepthAlong ? unit_place<T, true>(pair, half) : unit_place<T, true>(half * 8 + lane % 8, lane / 8 % 2);
}

// The offset `rows` (a multiple of 8) and `depths` (a multiple of 4) further. The swizzle repeats every eight lines
// (four where it XORs with twice the line), so a step across lines adds their bytes, and a step along them is an XOR.
template <class T, bool kDepthAlong>
__device__ __forceinline__ int moved_place(int place, int rows, int depths) {
  const int lines = kDepthAlong ? rows : rows / kDepth<T> * kDepth<T> + depths;
  const int along = kDepthAlong ? depths : rows % kDepth<T>;
  return (place ^ along / kUnit<T> * 16) + lines * kLineBytes;
}

// Loads A (16 x 16), or two neighbouring B (16 x 8 each), of 16-bit elements; half as deep for fp32.
template <class T, bool kOfA, bool kDepthAlong>
__device__ __forceinline__ void load_operand(const unsigned char* panels, int place, int row, int depth,
                                             uint32_t (&words)[4]) {
  if constexpr (sizeof(T) == 2 || kDepthAlong) {
    load_matrices<!kDepthAlong>(words, panels + moved_place<T, kDepthAlong>(place, row, depth));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int rows = (kOfA ? i % 2 : i / 2) * 8, depths = (kOfA ? i / 2 : i % 2) * 4;
      words[i] = *reinterpret_cast<const uint32_t*>(panels + moved_place<T, false>(place, row + rows, depth + depths));
    }
  }
}

// Splits fp32 into two TF32 numbers, exact to 22 bits: the rounded upper part and the remainder, which tensor cores
// truncate to TF32. Infinities, NaN and values that would round to infinity stay in `whole` and are in neither part.
__device__ __forceinline__ void split_tf32(uint32_t (&whole)[4], uint32_t (&upper)[4], uint32_t (&lower)[4]) {
  constexpr uint32_t kTooLarge = 0x7f7ff000u, kKept = 0xffffe000u, kHalf = 0x1000u;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float number = __uint_as_float(whole[i]);
    const bool splits = fabsf(number) < __uint_as_float(kTooLarge);
    const float finite = splits ? number : 0.0f;
    upper[i] = (__float_as_uint(finite) + kHalf) & kKept;
    lower[i] = __float_as_uint(finite - __uint_as_float(upper[i]));
    if (splits) whole[i] = upper[i];
  }
}

// Which halves of a warp's rows are needed. The branch per half also limits how many products the compiler interleaves,
// which would spill.
struct RowHalves {
  bool first, last;
};

// totals += A B^T over one panel's depth: A the 64 rows of a panel, B 32 rows of another from first_b on. `a_panel` and
// `b_panel` are byte offsets in `panels`.
template <class T, bool kADepthAlong, bool kBDepthAlong>
struct PanelProduct {
  static constexpr int kStep = 32 / int(sizeof(T)), kSteps = 2;  // depth of one mma, mmas between promotions

  // B, and its two TF32 parts for fp32; each for kSteps steps and pairs of eight columns.
  using Columns = uint32_t[kSteps][kColumnBlocks / 2][4];
  struct Factor {
    Columns whole, upper, lower;
  };

  static __device__ __forceinline__ void add(const unsigned char* panels, int a_panel, int b_panel, int first_b,
                                             RowHalves halves, Totals<T>& totals) {
    const int a_place = a_panel + first_place<T, true, kADepthAlong>();
    const int b_place = moved_place<T, kBDepthAlong>(b_panel + first_place<T, false, kBDepthAlong>(), first_b, 0);
#pragma unroll 1
    for (int depth = 0; depth < kDepth<T>; depth += kStep * kSteps) {
      Factor b;
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
#pragma unroll
        for (int j = 0; j < kColumnBlocks / 2; ++j) {
          load_operand<T, false, kBDepthAlong>(panels, b_place, 16 * j, depth + k * kStep, b.whole[k][j]);
          if constexpr (sizeof(T) == 4) split_tf32(b.whole[k][j], b.upper[k][j], b.lower[k][j]);
        }
      }
      if (halves.first) add_rows<0>(panels, a_place, depth, b, totals);
      if (halves.last) add_rows<kRowBlocks / 2>(panels, a_place, depth, b, totals);
    }
  }

  // Half of the rows.
  template <int kFirst>
  static __device__ __forceinline__ void add_rows(const unsigned char* panels, int place, int depth, const Factor& b,
                                                  Totals<T>& totals) {
#pragma unroll
    for (int i = kFirst; i < kFirst + kRowBlocks / 2; ++i) {
      uint32_t whole[kSteps][4], upper[kSteps][4], lower[kSteps][4];
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        load_operand<T, true, kADepthAlong>(panels, place, 16 * i, depth + k * kStep, whole[k]);
        if constexpr (sizeof(T) == 4) split_tf32(whole[k], upper[k], lower[k]);
      }
#pragma unroll
      for (int j = 0; j < kColumnBlocks; ++j) {
        float sums[4] = {};
        if constexpr (sizeof(T) == 4) {
          // An infinity enters only the product of whole values: times a lower part its sign could differ.
          multiply(lower, b.upper, j, sums);
          multiply(upper, b.lower, j, sums);
        }
        multiply(whole, b.whole, j, sums);
#pragma unroll
        for (int e = 0; e < 4; ++e) totals[i][j][e] += sums[e];
      }
    }
  }

  // 16 rows by the j-th eight columns.
  static __device__ __forceinline__ void multiply(const uint32_t (&a)[kSteps][4], const Columns& b, int j,
                                                  float (&sums)[4]) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      const uint32_t (&pair)[4] = b[k][j / 2];
      mma(sums, a[k], {pair[j % 2 * 2], pair[j % 2 * 2 + 1]});
    }
  }
  static __device__ __forceinline__ void mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (sizeof(T) == 4) {
      mma_16x8x8_tf32(sums, a, b);
    } else {
      mma_16x8x16<T>(sums, a, b);
    }
  }
};

// fp64 is for checks, not for speed: scalar arithmetic, with results in the accumulator layout of mma.
template <bool kADepthAlong, bool kBDepthAlong>
struct PanelProduct<double, kADepthAlong, kBDepthAlong> {
  static __device__ __forceinline__ void add(const unsigned char* panels, int a_place, int b_place, int first_b,
                                             RowHalves, Totals<double>& totals) {
    const unsigned char *a_panel = panels + a_place, *b_panel = panels + b_place;
    const int group = lane_index() / 4, member = lane_index() % 4;
    for (int depth = 0; depth < kDepth<double>; ++depth) {
      double b[kColumnBlocks][2];
#pragma unroll
      for (int j = 0; j < kColumnBlocks; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) b[j][e] = number<kBDepthAlong>(b_panel, first_b + 8 * j + 2 * member + e, depth);
      }
#pragma unroll
      for (int i = 0; i < kRowBlocks; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const double a = number<kADepthAlong>(a_panel, 16 * i + 8 * half + group, depth);
#pragma unroll
          for (int j = 0; j < kColumnBlocks; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) totals[i][j][2 * half + e] += a * b[j][e];
          }
        }
      }
    }
  }

  template <bool kDepthAlong>
  static __device__ __forceinline__ double number(const unsigned char* panel, int row, int depth) {
    return *reinterpret_cast<const double*>(panel + number_place<double, kDepthAlong>(row, depth));
  }
};

}  // namespace perceptual_ops
