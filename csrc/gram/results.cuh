// Epilogue of the gradient: scales a warp's results, adds another gradient, stores coalesced.
#pragma once

#include "product.cuh"

namespace perceptual_ops {

// The output of the epilogue and the gradient added to it.
template <class T>
struct ResultWriter {
  T* dx;
  int64_t row_stride;  // neighbours in a row are 1 apart
  int rows, columns;   // of the whole sample
  bool aligned;
  Matrix<T> other;  // lines are rows; null data: nothing

  // Starts the copy of the kUnit elements that are added at row `row`, from column `column` on.
  __device__ __forceinline__ void fill_other(int row, int column, unsigned char* to) const {
    const int count = row < rows ? max(0, min(columns - column, kUnit<T>)) : 0;
    fill_unit(other.data + (count > 0 ? row * other.line_stride + column : 0), count, other.aligned, to);
  }

  // Stores kUnit results of row `row`, from column `column` on.
  __device__ __forceinline__ void store(int row, int column, const Pack<T>& results) const {
    if (row >= rows || column >= columns) return;
    T* to = dx + row * row_stride + column;
    const int count = min(columns - column, kUnit<T>);
    if (count == kUnit<T> && aligned) {
      store_pack(to, results);
    } else {
#pragma unroll
      for (int i = 0; i < kUnit<T>; ++i) {
        if (i < count) to[i] = results.values[i];
      }
    }
  }
};

// Byte offset of a unit of a warp's results while they are staged in shared memory: XOR swizzle against bank conflicts,
// both of the lanes that write eight rows at a time and of those that read them in the order of global memory. Rows
// that are eight apart, or as many as a warp stores at a time, differ by a fixed number of bytes.
template <class T>
__device__ __forceinline__ int result_place(int row, int unit) {
  constexpr int kUnits = kWarpColumns / kUnit<T>;
  const int turn = row * int(sizeof(T) * sizeof(T)) / 8;
  return (row * kUnits + ((unit ^ turn) & (kUnits - 1))) * 16;
}

// Scales a warp's results by their channels' factors, transposes them through shared memory and stores them coalesced.
// The other gradient is loaded into the staging memory first.
template <bool kNhwc, bool kAdds, class T>
__device__ __forceinline__ void store_totals(const ResultWriter<T>& writer, int first_row, int first_column,
                                             const DeviceAccumulator<T>* factors,  // of the warp's rows, or columns
                                             const Totals<T>& totals, unsigned char* staged) {
  struct alignas(2 * sizeof(T)) Pair {
    T values[2];
  };
  constexpr int kRowBytes = kWarpColumns * int(sizeof(T)), kRowUnits = kRowBytes / 16;
  constexpr int kStoredRows = 32 / kRowUnits;              // that a warp stores at a time
  constexpr int kStaged = sizeof(T) > 4 ? 2 : kRowBlocks;  // 16-row blocks of every warp that shared memory holds
  static_assert(kThreads / 32 * kStaged * 16 * kRowBytes <= kSharedBytes, "the results fit");
  const bool whole =
      writer.aligned && first_row + kWarpRows <= writer.rows && first_column + kWarpColumns <= writer.columns;
  const unsigned lane = fresh_thread_index() % 32;
  const int row = lane / 4, column = lane % 4 * 2;                   // of the results that this lane holds
  const int stored_row = lane / kRowUnits, unit = lane % kRowUnits;  // of those that it stores
  const int write = result_place<T>(row, column / kUnit<T>) + column % kUnit<T> * int(sizeof(T));
  unsigned char* moved = staged + result_place<T>(stored_row, unit);
#pragma unroll
  for (int first = 0; first < kRowBlocks; first += kStaged) {
    const int first_stored = first_row + 16 * first + stored_row, at = first_column + unit * kUnit<T>;
    __syncwarp();  // the rows before are read
    // Load the other gradient.
    if constexpr (kAdds) {
#pragma unroll 1
      for (int rows = 0; rows < kStaged * 16; rows += kStoredRows) {
        writer.fill_other(first_stored + rows, at, moved + rows * kRowBytes);
      }
      commit_copies();
      wait_copies<0>();
      __syncwarp();  // what is added is there
    }
    // Scale, add, round, stage.
#pragma unroll
    for (int i = 0; i < kStaged; ++i) {
#pragma unroll
      for (int j = 0; j < kColumnBlocks; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          unsigned char* to = staged + (write ^ 8 * j / kUnit<T> * 16) + (16 * i + 8 * half) * kRowBytes;
          Pair pair;
          if constexpr (kAdds) pair = *reinterpret_cast<const Pair*>(to);
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int channel = kNhwc ? 8 * j + column + e : 16 * (first + i) + 8 * half + row;
            DeviceAccumulator<T> result = factors[channel] * totals[first + i][j][2 * half + e];
            if constexpr (kAdds) result += widen(pair.values[e]);
            pair.values[e] = narrow<T>(result);
          }
          *reinterpret_cast<Pair*>(to) = pair;
        }
      }
    }
    __syncwarp();  // the rows are there
    // Store.
    const auto results = [&](int rows) { return *reinterpret_cast<const Pack<T>*>(moved + rows * kRowBytes); };
    if (whole) {
      T* to = writer.dx + first_stored * writer.row_stride + at;
#pragma unroll
      for (int rows = 0; rows < kStaged * 16; rows += kStoredRows, to += kStoredRows * writer.row_stride) {
        store_pack(to, results(rows));
      }
    } else {
#pragma unroll 1
      for (int rows = 0; rows < kStaged * 16; rows += kStoredRows) {
        writer.store(first_stored + rows, at, results(rows));
      }
    }
  }
}

}  // namespace perceptual_ops
