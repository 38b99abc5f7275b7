// Products of panels. A warp makes 64 x 32 results, a lane 64 of them, laid out as mma wants them: [16-row block]
// [8-column block][row + 0 or 8, two neighbouring columns].
//
// Tensor cores cut sums off instead of rounding them, and post-ReLU sums only grow, so that the error does too. So a
// product of few numbers starts from zero and is added to the totals by the fp32 units: every 32 numbers of fp16 and
// bfloat16, every 8 of fp32, whose products are made of three of TF32 (3xTF32: the upper and lower parts of both
// factors, but not lower times lower), the small ones first.
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

__device__ __forceinline__ int lane_index() { return threadIdx.x % 32; }

// Where this lane finds its row of the first 16 x 16 numbers of a panel for ldmatrix, whose four 8 x 8 matrices it
// takes line by line, or by two units of a line first. What comes after the first is found by a line's bytes, and by an
// XOR of the unit: swizzled places of lines that are a multiple of 8 apart differ by nothing else.
__device__ __forceinline__ int matrix_place(bool lines_first) {
  const int lane = fresh_thread_index() % 32, other = lane / 8 % 2 * 8 + lane % 8, half = lane / 16;
  return lines_first ? unit_place<__half, true>(other, half)
                     : unit_place<__half, true>(half * 8 + lane % 8, lane / 8 % 2);
}
template <bool kDepthAlong>
__device__ __forceinline__ void load_16x16(const unsigned char* panels, int place, int row, int depth,
                                           uint32_t (&numbers)[4]) {
  const int line = kDepthAlong ? row : depth, along = kDepthAlong ? depth : row;
  load_matrices<!kDepthAlong>(numbers, panels + (place ^ along / 8 * 16) + line * kLineBytes);
}

// A (16 x 8) and two B (8 x 8) of fp32 numbers. ldmatrix moves them as pairs of 16 bits, which it cannot turn.
template <bool kDepthAlong>
__device__ __forceinline__ void load_wide_a(const unsigned char* panel, int row, int depth, uint32_t (&a)[4]) {
  if constexpr (kDepthAlong) {
    const int matrix = lane_index() / 8, inner = lane_index() % 8;
    load_matrices<false>(a, panel + unit_place<float, true>(row + matrix % 2 * 8 + inner, depth / 4 + matrix / 2));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int place =
          number_place<float, false>(row + i % 2 * 8 + lane_index() / 4, depth + i / 2 * 4 + lane_index() % 4);
      a[i] = *reinterpret_cast<const uint32_t*>(panel + place);
    }
  }
}
template <bool kDepthAlong>
__device__ __forceinline__ void load_wide_b(const unsigned char* panel, int column, int depth, uint32_t (&b)[4]) {
  if constexpr (kDepthAlong) {
    const int matrix = lane_index() / 8, inner = lane_index() % 8;
    load_matrices<false>(b, panel + unit_place<float, true>(column + matrix / 2 * 8 + inner, depth / 4 + matrix % 2));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int place =
          number_place<float, false>(column + i / 2 * 8 + lane_index() / 4, depth + i % 2 * 4 + lane_index() % 4);
      b[i] = *reinterpret_cast<const uint32_t*>(panel + place);
    }
  }
}

// Zero for what is infinite or no number.
__device__ __forceinline__ uint32_t finite_or_zero(uint32_t bits) {
  constexpr uint32_t kExponent = 0x7f800000u;
  return (bits & kExponent) == kExponent ? 0u : bits;
}

// fp32 numbers as the sum of two of TF32, right to 22 bits. Infinities and NaN are upper parts alone.
template <int kCount>
__device__ __forceinline__ void split_tf32(const uint32_t (&bits)[kCount], uint32_t (&upper)[kCount],
                                           uint32_t (&lower)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float number = __uint_as_float(bits[i]);
    upper[i] = to_tf32(number);
    lower[i] = finite_or_zero(to_tf32(number - __uint_as_float(upper[i])));
  }
}

// Which halves of a warp's rows hold anything that is wanted. A branch for each also keeps the compiler from beginning
// so many products at a time that it spills.
struct RowHalves {
  bool first, last;
};

// totals += A B^T over one panel's depth, A the 64 rows of a panel, B 32 rows of another from first_b on. `a_panel` and
// `b_panel` are where they begin in `panels`, bytes.
template <class T, bool kADepthAlong, bool kBDepthAlong>
struct PanelProduct {
  static constexpr int kStep = 16, kSteps = 2;  // depth of a product, products before they are added to the totals

  static __device__ __forceinline__ void add(const unsigned char* panels, int a_panel, int b_panel, int first_b,
                                             RowHalves halves, Totals<T>& totals) {
    int a_place = a_panel + matrix_place(kADepthAlong), b_place = b_panel + matrix_place(!kBDepthAlong);
    if constexpr (kBDepthAlong) {
      b_place += first_b * kLineBytes;
    } else {
      b_place ^= first_b / 8 * 16;
    }
#pragma unroll 1
    for (int depth = 0; depth < kDepth<T>; depth += kStep * kSteps) {
      uint32_t b[kSteps][kColumnBlocks / 2][4];
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
#pragma unroll
        for (int j = 0; j < kColumnBlocks; j += 2) {
          load_16x16<kBDepthAlong>(panels, b_place, 8 * j, depth + k * kStep, b[k][j / 2]);
        }
      }
      if (halves.first) add_rows<0>(panels, a_place, depth, b, totals);
      if (halves.last) add_rows<kRowBlocks / 2>(panels, a_place, depth, b, totals);
    }
  }

  // Half of the rows.
  template <int kFirst>
  static __device__ __forceinline__ void add_rows(const unsigned char* panels, int place, int depth,
                                                  const uint32_t (&b)[kSteps][kColumnBlocks / 2][4],
                                                  Totals<T>& totals) {
#pragma unroll
    for (int i = kFirst; i < kFirst + kRowBlocks / 2; ++i) {
      uint32_t a[kSteps][4];
#pragma unroll
      for (int k = 0; k < kSteps; ++k) load_16x16<kADepthAlong>(panels, place, 16 * i, depth + k * kStep, a[k]);
#pragma unroll
      for (int j = 0; j < kColumnBlocks; ++j) {
        float sums[4] = {};
#pragma unroll
        for (int k = 0; k < kSteps; ++k) {
          const uint32_t (&pair)[4] = b[k][j / 2];
          mma_16x8x16<T>(sums, a[k], {pair[j % 2 * 2], pair[j % 2 * 2 + 1]});
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) totals[i][j][e] += sums[e];
      }
    }
  }
};

template <bool kADepthAlong, bool kBDepthAlong>
struct PanelProduct<float, kADepthAlong, kBDepthAlong> {
  static constexpr int kStep = 8, kSteps = 1;

  static __device__ __forceinline__ void add(const unsigned char* panels, int a_place, int b_place, int first_b,
                                             RowHalves halves, Totals<float>& totals) {
    const unsigned char *a_panel = panels + a_place, *b_panel = panels + b_place;
#pragma unroll 1
    for (int depth = 0; depth < kDepth<float>; depth += kStep * kSteps) {
      uint32_t b_upper[kSteps][kColumnBlocks / 2][4], b_lower[kSteps][kColumnBlocks / 2][4];
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
#pragma unroll
        for (int j = 0; j < kColumnBlocks; j += 2) {
          uint32_t b[4];
          load_wide_b<kBDepthAlong>(b_panel, first_b + 8 * j, depth + k * kStep, b);
          split_tf32(b, b_upper[k][j / 2], b_lower[k][j / 2]);
        }
      }
      if (halves.first) add_rows<0>(a_panel, depth, b_upper, b_lower, totals);
      if (halves.last) add_rows<kRowBlocks / 2>(a_panel, depth, b_upper, b_lower, totals);
    }
  }

  // Half of the rows.
  template <int kFirst>
  static __device__ __forceinline__ void add_rows(const unsigned char* a_panel, int depth,
                                                  const uint32_t (&b_upper)[kSteps][kColumnBlocks / 2][4],
                                                  const uint32_t (&b_lower)[kSteps][kColumnBlocks / 2][4],
                                                  Totals<float>& totals) {
#pragma unroll
    for (int i = kFirst; i < kFirst + kRowBlocks / 2; ++i) {
      float sums[kColumnBlocks][4] = {};
      uint32_t a_upper[kSteps][4], a_lower[kSteps][4];
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        uint32_t a[4];
        load_wide_a<kADepthAlong>(a_panel, 16 * i, depth + k * kStep, a);
        split_tf32(a, a_upper[k], a_lower[k]);
        // An infinity counts once, in the product of the upper parts: with a lower part its sign could be another.
        add_products<true>(a_lower[k], b_upper[k], sums);
        const uint32_t a_finite[4] = {finite_or_zero(a_upper[k][0]), finite_or_zero(a_upper[k][1]),
                                      finite_or_zero(a_upper[k][2]), finite_or_zero(a_upper[k][3])};
        add_products<false>(a_finite, b_lower[k], sums);
      }
#pragma unroll
      for (int k = 0; k < kSteps; ++k) add_products<false>(a_upper[k], b_upper[k], sums);
#pragma unroll
      for (int j = 0; j < kColumnBlocks; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) totals[i][j][e] += sums[j][e];
      }
    }
  }

  template <bool kFiniteB>
  static __device__ __forceinline__ void add_products(const uint32_t (&a)[4], const uint32_t (&b)[kColumnBlocks / 2][4],
                                                      float (&sums)[kColumnBlocks][4]) {
#pragma unroll
    for (int j = 0; j < kColumnBlocks; ++j) {
      const uint32_t first = b[j / 2][j % 2 * 2], second = b[j / 2][j % 2 * 2 + 1];
      if constexpr (kFiniteB) {
        mma_16x8x8_tf32(sums[j], a, {finite_or_zero(first), finite_or_zero(second)});
      } else {
        mma_16x8x8_tf32(sums[j], a, {first, second});
      }
    }
  }
};

// fp64 is for checks, not for speed: plain multiplications and additions, the results laid out as those of mma.
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
