// Panels: 64 rows of a matrix by 128 bytes of its depth, the axis that a product sums over, in shared memory.
//
// Either the depth is contiguous in global memory (pixels of an NCHW map in a Gram matrix) or the rows are (its
// channels in NHWC). A panel keeps that order, so that copies are of 16 bytes and coalesced, and ldmatrix transposes on
// the way to registers: a panel is 64 lines of 128 bytes, a line being one row, or one depth index and 128 bytes of
// rows.
#pragma once

#include "../common/async_copy.cuh"
#include "../common/cuda_element.cuh"
#include "../common/vec.cuh"

namespace perceptual_ops {

constexpr int kThreads = 256;  // of every block that works on panels
constexpr int kPanelRows = 64;
constexpr int kLineBytes = 128;
constexpr int kPanelBytes = kPanelRows * kLineBytes;
constexpr int kLineUnits = kLineBytes / 16;          // 16-byte units
constexpr int kCopiedLines = kThreads / kLineUnits;  // per pass of the block, one unit per thread
// Blocks hold twelve panels: 96 KB, what every architecture since sm_80 gives one block.
constexpr int kPanels = 12;
constexpr int kSharedBytes = kPanels * kPanelBytes;

template <class T>
constexpr int kDepth = kLineBytes / int(sizeof(T));
template <class T>
constexpr int kUnit = 16 / int(sizeof(T));

// A (rows, depth) matrix in global memory, stored line by line. Both sizes are under 2^31.
template <class T>
struct Matrix {
  const T* data;
  int64_t line_stride;  // elements
  int rows;
  bool aligned;  // every line begins at a multiple of 16 bytes
};

// Byte offset of a 16-byte unit in its panel: XOR swizzle against bank conflicts. Lines that a warp reads together
// would share banks, so the unit index is XORed with the line, or with twice the line where single elements are read
// (fp32 and fp64 with contiguous rows).
template <class T, bool kDepthAlong>
__device__ __forceinline__ int unit_place(int line, int unit) {
  const int turn = sizeof(T) > 2 && !kDepthAlong ? 2 * line : line;
  return line * kLineBytes + ((unit ^ turn) & (kLineUnits - 1)) * 16;
}

// Byte offset of one element in its panel.
template <class T, bool kDepthAlong>
__device__ __forceinline__ int number_place(int row, int depth) {
  const int line = kDepthAlong ? row : row / kDepth<T> * kDepth<T> + depth;
  const int along = kDepthAlong ? depth : row % kDepth<T>;
  return unit_place<T, kDepthAlong>(line, along / kUnit<T>) + along % kUnit<T> * int(sizeof(T));
}

// The thread index, re-read at every call: otherwise the compiler keeps values derived from it in registers that the
// products need.
__device__ __forceinline__ unsigned fresh_thread_index() {
#ifdef __CUDACC__
  unsigned index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
#else
  return threadIdx.x;
#endif
}

// Starts the copy of `count` elements from `from` into a unit of a panel, zero-filled to 16 bytes.
template <class T>
__device__ __forceinline__ void fill_unit(const T* from, int count, bool aligned, unsigned char* to) {
  if (aligned) {
    copy_async(to, from, count * int(sizeof(T)));
  } else {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < kUnit<T>; ++i) pack.values[i] = i < count ? load_pack<T, 1>(from + i).values[0] : narrow<T>(0);
    *reinterpret_cast<Pack<T>*>(to) = pack;
  }
}

// Starts the copy of rows [first_row, first_row + 64) x depth [first_depth, first_depth + kDepth) into a panel, with
// zeros out of bounds. Called by all threads of the block, followed by commit_copies.
template <bool kDepthAlong, class T>
__device__ __forceinline__ void fill_panel(const Matrix<T>& matrix, int first_row, int first_depth, int depth_end,
                                           unsigned char* panel) {
  const unsigned thread = fresh_thread_index();
  const int unit = thread % kLineUnits;
#pragma unroll 1
  for (int line = thread / kLineUnits; line < kPanelRows; line += kCopiedLines) {
    // The line in global memory, the first element to copy, and the elements left in it.
    int at, first, left;
    if constexpr (kDepthAlong) {
      at = first_row + line;
      first = first_depth + unit * kUnit<T>;
      left = at < matrix.rows ? depth_end - first : 0;
    } else {
      at = first_depth + line % kDepth<T>;
      first = first_row + line / kDepth<T> * kDepth<T> + unit * kUnit<T>;
      left = at < depth_end ? matrix.rows - first : 0;
    }
    const int count = max(0, min(left, kUnit<T>));
    const T* from = matrix.data + (count > 0 ? at * matrix.line_stride + first : 0);
    fill_unit(from, count, matrix.aligned, panel + unit_place<T, kDepthAlong>(line, unit));
  }
}

// Elements from the first number of a panel to the first of one of its lines.
template <class T, bool kDepthAlong>
__device__ __forceinline__ int64_t line_offset(int line, int64_t line_stride) {
  return kDepthAlong ? line * line_stride : line % kDepth<T> * line_stride + line / kDepth<T> * kDepth<T>;
}

// fill_panel without bounds checks, for panels that lie entirely in a matrix with aligned lines. `from` is the first
// element of the first panel; panels are panel_stride elements apart.
template <int kCount, bool kDepthAlong, class T>
__device__ __forceinline__ void fill_whole_panels(const T* from, int64_t line_stride, int64_t panel_stride,
                                                  unsigned char* panels) {
  const unsigned thread = fresh_thread_index();
  const int line = thread / kLineUnits, unit = thread % kLineUnits;
  from += line_offset<T, kDepthAlong>(line, line_stride) + unit * kUnit<T>;
  unsigned char* to = panels + unit_place<T, kDepthAlong>(line, unit);
#pragma unroll
  for (int panel = 0; panel < kCount; ++panel, from += panel_stride, to += kPanelBytes) {
    // The swizzle repeats every kCopiedLines lines.
#pragma unroll
    for (int lines = 0; lines < kPanelRows; lines += kCopiedLines) {
      copy_async(to + lines * kLineBytes, from + line_offset<T, kDepthAlong>(lines, line_stride));
    }
  }
}

}  // namespace perceptual_ops
