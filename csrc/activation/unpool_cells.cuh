// Kernel of the same gradient as in unpool.cuh for the windows that kernels are compiled for, all at stride 2 over
// groups of eight channels. A thread makes a cell of 2 x 2 pixels: it finds its place once, and loads each window's
// gradient and codes once for all pixels of the cell under it. The sums are those of unpool.cuh, in their order.
//
// Bound by memory: the map is written once, up to two maps of its size are read, and the windows' gradients and codes;
// those of overlapping windows come from the cache again, one a window for max 2 x 2 and the mean, 4 for max 3 x 3, 4
// gradients and 9 words of codes for "blur". At the border of the map "blur" goes window by window as unpool.cuh does.
// Targets on every architecture: at most 128 registers, for 2 blocks (512 threads) per SM, in fp64 and for "blur" in
// fp32 255 for 1; each thread has its windows and what it adds to a row of its cell (16 bits: to both; "blur": nothing
// yet) in flight together, 100 to 200 bytes: at least 40 KB per SM, where an H200 needs about 25 KB to saturate its
// memory, half of it for writing. Shared memory: under 100 bytes.
#pragma once

#include "cells.cuh"
#include "unpool.cuh"

namespace perceptual_ops {

template <class T, class W>
constexpr int kCellBlocks = sizeof(T) == 8 || (sizeof(T) == 4 && W::kKind == PoolKind::kBlur) ? 1 : 2;  // an SM
// Rows of a cell whose terms are loaded together with the windows; "blur" has no registers left for them at its
// borders.
template <class T, class W>
constexpr int kCellRows = W::kKind == PoolKind::kBlur ? 0
                          : sizeof(T) == 2            ? kCell
                                                      : 1;

// The windows over a cell along an axis, from kFirst to kLast; 0 begins with the cell.
template <class W>
struct WindowsOver {
  static_assert(W::kStride == kCell, "a cell for every window, or for every result of the filter");
  static constexpr int kStep = W::kKind == PoolKind::kBlur ? 1 : W::kStride;
  static constexpr int kFirst = -((W::kKernel - 1) / kStep), kLast = (kCell - 1) / kStep;
  static constexpr int kCount = kLast - kFirst + 1;

  static constexpr __device__ int number(int cell, int window) { return cell * (kCell / kStep) + window; }
  // Where a pixel of the cell stands from the beginning of a window, which covers it if it is there.
  static constexpr __device__ int within(int pixel, int window) { return pixel - window * kStep; }
  static constexpr __device__ bool covers(int within) { return within >= 0 && within < W::kKernel; }
};

// The gradient of the pooling with respect to the pixels of a cell.
template <class Acc>
using CellSums = Acc[kCell][kCell][kGroup];

// What the windows over a cell say: their codes, with no position where there is no window, and their gradients, or
// those of the results that the filter of "blur" makes of them.
template <class T, class W>
struct CellWindows {
  using Acc = DeviceAccumulator<T>;
  using Over = WindowsOver<W>;
  static constexpr bool kFiltered = W::kKind == PoolKind::kBlur, kCoded = W::kKind != PoolKind::kAverage;
  static constexpr int kGradients = kFiltered ? 2 : Over::kCount;

  Elements<T, kGroup> gradients[kGradients][kGradients];
  uint32_t codes[Over::kCount][Over::kCount];

  static __device__ __forceinline__ bool exists(int row, int column, const PoolShape& shape) {
    return unsigned(row) < unsigned(shape.rows) && unsigned(column) < unsigned(shape.columns);
  }

  __device__ __forceinline__ void load(const T* __restrict__ grad,         // of the sample, from the first channel on
                                       const uint8_t* __restrict__ words,  // of the sample, (code_bytes), or null
                                       const PoolShape& shape, const Cells& cells, const CellPlace& place) {
    const int64_t channels = int64_t(cells.per_pixel) * kGroup;
#pragma unroll
    for (int i = 0; i < Over::kCount; ++i) {
#pragma unroll
      for (int j = 0; j < Over::kCount; ++j) {
        const int row = Over::number(place.row, Over::kFirst + i),
                  column = Over::number(place.column, Over::kFirst + j);
        const bool there = exists(row, column, shape);
        const uint32_t window = row * shape.columns + column;
        if constexpr (kCoded) {
          codes[i][j] = ~0u;
          if (there) codes[i][j] = load_codes<kGroup, uint32_t>(words, window * cells.per_pixel + place.unit, 4);
        }
        if constexpr (!kFiltered) gradients[i][j] = load_elements_if<kGroup>(there, grad + window * channels);
      }
    }
    if constexpr (kFiltered) {
#pragma unroll
      for (int y = 0; y < kGradients; ++y) {
#pragma unroll
        for (int x = 0; x < kGradients; ++x) {
          const uint32_t result = (place.row + y) * shape.out_width + place.column + x;
          gradients[y][x] = load_elements<kGroup>(grad + result * channels);
        }
      }
    }
  }

  // The gradient of a channel of window (i, j); of "blur" that of its maximum, which the filter passes on to the first
  // of the results along an axis, to both, or to the second.
  __device__ __forceinline__ Acc of_window(int i, int j, int k) const {
    if constexpr (kFiltered) {
      const auto of = [](int at, Acc first, Acc second) {
        return at == 1 ? binomial<Acc>(0) * (first + second) : binomial<Acc>(1) * (at == 0 ? first : second);
      };
      const auto along_row = [&](int y) { return of(j, widen(gradients[y][0], k), widen(gradients[y][1], k)); };
      return of(i, along_row(0), along_row(1));
    } else if constexpr (kCoded) {
      return widen(gradients[i][j], k);
    } else {
      return widen(gradients[i][j], k) * (Acc(1) / Acc(W::kKernel * W::kKernel));
    }
  }

  __device__ __forceinline__ void add_to(CellSums<Acc>& sums) const {
#pragma unroll
    for (int i = 0; i < Over::kCount; ++i) {
#pragma unroll
      for (int j = 0; j < Over::kCount; ++j) {
#pragma unroll
        for (int k = 0; k < kGroup; ++k) add_window(i, j, k, of_window(i, j, k), sums);
      }
    }
  }

 private:
  // Adds the gradient of a channel of a window where its maximum stands. The first window over a pixel sets its sum.
  __device__ __forceinline__ void add_window(int i, int j, int k, Acc gradient, CellSums<Acc>& sums) const {
#pragma unroll
    for (int dy = 0; dy < kCell; ++dy) {
#pragma unroll
      for (int dx = 0; dx < kCell; ++dx) {
        const int y = Over::within(dy, Over::kFirst + i), x = Over::within(dx, Over::kFirst + j);
        if (!Over::covers(y) || !Over::covers(x)) continue;
        const bool is_first = (i == 0 || !Over::covers(y + Over::kStep)) && (j == 0 || !Over::covers(x + Over::kStep));
        const uint32_t here = 0x11111111u * (y * W::kKernel + x), of_channel = 15u << (4 * k);
        const bool takes = !kCoded || ((codes[i][j] ^ here) & of_channel) == 0;
        const Acc taken = takes ? gradient : Acc(0);
        sums[dy][dx][k] = is_first ? taken : sums[dy][dx][k] + taken;
      }
    }
  }
};

// The same at the border of the map, where the maxima of "blur" are repeated: by any number of results.
template <class W, class T, class Acc>
__device__ __forceinline__ void gather_bordered(const T* grad, const uint8_t* words, const PoolShape& shape,
                                                const Cells& cells, const CellPlace& place, CellSums<Acc>& sums) {
  using Over = WindowsOver<W>;
#pragma unroll
  for (int dy = 0; dy < kCell; ++dy) {
#pragma unroll
    for (int dx = 0; dx < kCell; ++dx) {
#pragma unroll
      for (int k = 0; k < kGroup; ++k) sums[dy][dx][k] = 0;
    }
  }
#pragma unroll 1
  for (int window = 0; window < Over::kCount * Over::kCount; ++window) {
    const int i = Over::kFirst + window / Over::kCount, j = Over::kFirst + window % Over::kCount;
    const int row = Over::number(place.row, i), column = Over::number(place.column, j);
    if (!CellWindows<T, W>::exists(row, column, shape)) continue;
    const uint32_t unit = uint32_t(row * shape.columns + column) * cells.per_pixel + place.unit;
    const auto word = load_codes<kGroup, uint32_t>(words, unit, 4);
    Acc of_maximum[kGroup] = {};
    gather_filtered<W>(grad, shape, cells.per_pixel * kGroup, row, column, of_maximum);
#pragma unroll
    for (int dy = 0; dy < kCell; ++dy) {
#pragma unroll
      for (int dx = 0; dx < kCell; ++dx) {
        const int y = Over::within(dy, i), x = Over::within(dx, j);
        if (!Over::covers(y) || !Over::covers(x)) continue;
        const unsigned here = y * W::kKernel + x;
#pragma unroll
        for (int k = 0; k < kGroup; ++k) {
          sums[dy][dx][k] += (word >> (4 * k) & 15) == here ? of_maximum[k] : Acc(0);
        }
      }
    }
  }
}

template <class W, class T, class Acc>
__device__ __forceinline__ void gather_cell(const T* __restrict__ grad,  // of the sample, from the first channel on
                                            const uint8_t* __restrict__ words,  // of the sample, (code_bytes), or null
                                            const PoolShape& shape, const Cells& cells, const CellPlace& place,
                                            CellSums<Acc>& sums) {
  using Over = WindowsOver<W>;
  if constexpr (W::kKind == PoolKind::kBlur) {
    // Whether no maximum of the cell is repeated at a border.
    const auto inside = [](int cell, int count) {
      return cell >= kCell && Over::number(cell, Over::kLast) < count - 1 - int(Pooling::kBlurPadding);
    };
    if (!inside(place.row, shape.rows) || !inside(place.column, shape.columns)) {
      return gather_bordered<W>(grad, words, shape, cells, place, sums);
    }
  }
  CellWindows<T, W> windows;
  windows.load(grad, words, shape, cells, place);
  windows.add_to(sums);
}

// What is added to a row of a cell's pixels on their way through the gate.
template <class T>
struct CellRow {
  Added<T, kGroup> added[kCell];
  unsigned signs[kCell];

  // `places`: of its pixels in the batch.
  __device__ __forceinline__ void load(const Gate<T>& gate, const uint64_t (&places)[kCell]) {
#pragma unroll
    for (int dx = 0; dx < kCell; ++dx) {
      signs[dx] = gate.signs_of(places[dx] / kGroup);
      added[dx].load(gate, places[dx]);
    }
  }
};

// Grid: N * blocks, blocks innermost.
template <class T, class W>
__global__ void __launch_bounds__(kActivationThreads, kCellBlocks<T, W>)
    pool_backward_cell_kernel(T* x,                               // (N, H, W, C)
                              const T* __restrict__ grad,         // (N, out_height, out_width, C)
                              const uint8_t* __restrict__ codes,  // (N, code_bytes), or null
                              const Gate<T> gate, const PoolShape shape, const Cells cells) {
  using Acc = DeviceAccumulator<T>;
  const uint32_t n = blockIdx.x / cells.blocks;
  const uint32_t number = blockIdx.x % cells.blocks * kActivationThreads + threadIdx.x;
  typename Gate<T>::Bits largest = 0;
  if (number < cells.count) {
    const CellPlace place = CellPlace::of(number, cells);
    const uint32_t channels = cells.per_pixel * kGroup, channel = place.unit * kGroup;
    const CellPixels pixels(n, place, shape.height, shape.width, channels);
    // Load and gather.
    CellRow<T> rows[kCell];
#pragma unroll
    for (int dy = 0; dy < kCellRows<T, W>; ++dy) rows[dy].load(gate, pixels.places[dy]);
    CellSums<Acc> sums;
    gather_cell<W>(grad + uint64_t(n) * shape.out_height * shape.out_width * channels + channel,
                   codes ? codes + n * shape.code_bytes : nullptr, shape, cells, place, sums);
    // Compute, store.
    const Acc factor = gate.factor_of(n);
#pragma unroll
    for (int dy = 0; dy < kCell; ++dy) {
      if (dy >= kCellRows<T, W>) rows[dy].load(gate, pixels.places[dy]);
#pragma unroll
      for (int dx = 0; dx < kCell; ++dx) {
        typename Gate<T>::Bits magnitude = 0;
        const auto result = rows[dy].added[dx].passed(sums[dy][dx], factor, rows[dy].signs[dx], magnitude);
        if (!pixels.exists[dy][dx]) continue;
        largest = max(largest, magnitude);
        store_elements(x + pixels.places[dy][dx], result);
      }
    }
  }
  // Reduce.
  if (gate.maxima) raise_maximum<kActivationThreads>(largest, gate.maxima + n);
}

}  // namespace perceptual_ops
