// Kernels of DISTS's pooling. A block computes a tile of the result, or of the gradient under it, of eight packs of
// channels; a thread one pack. Backward needs grad / pooled of all windows over a pixel, up to four: it computes them
// once for the tile and its halo, the lower and right neighbours, in shared memory, and gathers.
//
// Bound by memory: the map is read once, forward writes a quarter of it, backward reads that and writes the map.
// Windows overlap in the cache, which serves 9 packs where 4 come from memory (backward 13: a third of the windows are
// the neighbours'). Targets on every architecture: at most 128 registers, for 2 blocks (512 threads) per SM; each
// thread has a window of 144 bytes in flight together, 72 KB per SM, where an H200 needs about 25 KB to saturate its
// memory, some of it for writing. Shared memory: 11.5 KB a block, backward.
#pragma once

#include "../common/shared.cuh"
#include "l2_pool.h"
#include "window.cuh"

namespace perceptual_ops {

constexpr int kL2PoolBlocks = 2;  // an SM
constexpr int kL2Taps = 3;        // of a window along an axis
constexpr int kL2Units = 8;       // packs of a pixel that a block takes
constexpr int kL2Rows = 4, kL2Columns = 8;
static_assert(kL2Rows * kL2Columns * kL2Units == kActivationThreads, "a thread a pack of the result");

struct L2Shape {
  int64_t stride_x, stride_grad;  // elements from sample to sample
  int height, width, channels;    // of the map
  int out_height, out_width;
  uint32_t tiles_across, tiles;  // of a row, of a sample
  uint32_t groups;               // of channels
};

// What one thread makes: kWidth channels of the result at (row, column).
struct L2Place {
  uint32_t n;
  int row, column, channel;
  int unit, tile_row, tile_column;  // of the block's
};

// Grid: N * tiles * groups, groups innermost.
template <int kWidth>
__device__ __forceinline__ L2Place l2_place(const L2Shape& shape) {
  const uint32_t tile = blockIdx.x / shape.groups % shape.tiles;
  const int unit = threadIdx.x % kL2Units, cell = threadIdx.x / kL2Units;
  const int tile_row = cell / kL2Columns, tile_column = cell % kL2Columns;
  return {blockIdx.x / shape.groups / shape.tiles,
          static_cast<int>(tile / shape.tiles_across) * kL2Rows + tile_row,
          static_cast<int>(tile % shape.tiles_across) * kL2Columns + tile_column,
          static_cast<int>(blockIdx.x % shape.groups * kL2Units + unit) * kWidth,
          unit,
          tile_row,
          tile_column};
}

// The pixels of a window, kWidth channels of each.
template <class T, int kWidth>
struct L2Window {
  using Acc = DeviceAccumulator<T>;
  Pack<T, kWidth> taps[kL2Taps][kL2Taps];

  // That of the result at (row, column); zeros outside of the map.
  __device__ __forceinline__ void load(const T* x,  // (H, W, C), from the thread's channel on
                                       const L2Shape& shape, int row, int column) {
    const int64_t line = int64_t(shape.width) * shape.channels;
    const T* middle = x + 2 * row * line + 2 * column * int64_t(shape.channels);
#pragma unroll
    for (int dy = 0; dy < kL2Taps; ++dy) {
#pragma unroll
      for (int dx = 0; dx < kL2Taps; ++dx) {
        const bool inside = unsigned(2 * row + dy - 1) < unsigned(shape.height) &&
                            unsigned(2 * column + dx - 1) < unsigned(shape.width);
        taps[dy][dx] = load_pack_if<T, kWidth>(inside, middle + (dy - 1) * line + (dx - 1) * int64_t(shape.channels));
      }
    }
  }

  // The mean of the squares, and a little: the square of the result. Pixel by pixel: the compiler gives each number of
  // a pack that is in use a register of its own.
  __device__ __forceinline__ void square(Acc (&result)[kWidth]) const {
    Acc sums[kL2Taps][kWidth] = {};  // of the pixels of one weight: the corners, the edges, the middle
#pragma unroll
    for (int dy = 0; dy < kL2Taps; ++dy) {
#pragma unroll
      for (int dx = 0; dx < kL2Taps; ++dx) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          const Acc value = widen(taps[dy][dx], k);
          sums[dy % 2 + dx % 2][k] += value * value;
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const Acc outer = Acc(0.0625) * sums[0][k] + Acc(kL2PoolEps);
      result[k] = Acc(0.25) * sums[2][k] + (Acc(0.125) * sums[1][k] + outer);
    }
  }
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kActivationThreads, kL2PoolBlocks)
    l2_pool_kernel(const T* __restrict__ x,  // (N, H, W, C)
                   T* __restrict__ pooled,   // (N, H', W', C)
                   const L2Shape shape) {
  const L2Place place = l2_place<kWidth>(shape);
  if (place.row >= shape.out_height || place.column >= shape.out_width || place.channel >= shape.channels) return;
  L2Window<T, kWidth> window;
  window.load(x + place.n * shape.stride_x + place.channel, shape, place.row, place.column);
  DeviceAccumulator<T> values[kWidth];
  window.square(values);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) values[k] = sqrt(values[k]);
  const auto result = narrow_pack<T, kWidth>(values);
  const int64_t pixel = (int64_t(place.n) * shape.out_height + place.row) * shape.out_width + place.column;
  store_pack(pooled + pixel * shape.channels + place.channel, result);
}

// grad / pooled of the results of a tile, and of its halo, those to its right and below.
template <class T, int kWidth>
struct L2Quotients {
  using Acc = DeviceAccumulator<T>;
  Acc values[kWidth][kL2Rows + 1][kL2Columns + 1][kL2Units];

  // That at (row, column) of the tile, zeros where there is none; leaves the window of x.
  __device__ __forceinline__ void make(const T* x, const T* grad, const L2Shape& shape, const L2Place& place, int row,
                                       int column, L2Window<T, kWidth>& window) {
    const int out_row = place.row - place.tile_row + row, out_column = place.column - place.tile_column + column;
    const bool inside = out_row < shape.out_height && out_column < shape.out_width;
    const int64_t at = (int64_t(out_row) * shape.out_width + out_column) * shape.channels;
    const auto upstream = load_pack_if<T, kWidth>(inside, grad + at);
    window.load(x, shape, out_row, out_column);
    Acc squares[kWidth];
    window.square(squares);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      values[k][row][column][place.unit] = inside ? widen(upstream, k) * rsqrt(squares[k]) : Acc(0);
    }
  }

  // What the windows send to the pixels of the thread's own that no other thread takes: its middle, and what is to the
  // right, below, and both.
  __device__ __forceinline__ void gather(const L2Place& place, int k, Acc (&sums)[2][2]) const {
    const auto& of_channel = values[k];
    const int row = place.tile_row, column = place.tile_column;
    const Acc own = of_channel[row][column][place.unit], right = of_channel[row][column + 1][place.unit];
    const Acc below = of_channel[row + 1][column][place.unit], corner = of_channel[row + 1][column + 1][place.unit];
    sums[0][0] = Acc(0.25) * own;
    sums[0][1] = Acc(0.125) * (own + right);
    sums[1][0] = Acc(0.125) * (own + below);
    sums[1][1] = Acc(0.0625) * ((own + right) + (below + corner));
  }
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kActivationThreads, kL2PoolBlocks)
    l2_pool_backward_kernel(const T* __restrict__ grad,  // (N, H', W', C)
                            const T* __restrict__ x,     // (N, H, W, C)
                            T* __restrict__ result,      // (N, H, W, C)
                            const L2Shape shape) {
  using Quotients = L2Quotients<T, kWidth>;
  PO_SHARED(Quotients, quotients);
  const L2Place place = l2_place<kWidth>(shape);
  const bool has_channels = place.channel < shape.channels;
  L2Window<T, kWidth> own;
  if (has_channels) {
    const T* of_x = x + place.n * shape.stride_x + place.channel;
    const T* of_grad = grad + place.n * shape.stride_grad + place.channel;
    quotients.make(of_x, of_grad, shape, place, place.tile_row, place.tile_column, own);
    // The neighbours: those to the right from the top on, then those below and the corner.
    const int neighbour = threadIdx.x / kL2Units;
    if (neighbour <= kL2Rows + kL2Columns) {
      const bool right = neighbour < kL2Rows;
      L2Window<T, kWidth> other;
      quotients.make(of_x, of_grad, shape, place, right ? neighbour : kL2Rows, right ? kL2Columns : neighbour - kL2Rows,
                     other);
    }
  }
  __syncthreads();  // the quotients are there
  if (!has_channels) return;
  DeviceAccumulator<T> gradients[2][2][kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    DeviceAccumulator<T> sums[2][2];
    quotients.gather(place, k, sums);
#pragma unroll
    for (int dy = 0; dy < 2; ++dy) {
#pragma unroll
      for (int dx = 0; dx < 2; ++dx) gradients[dy][dx][k] = widen(own.taps[1 + dy][1 + dx], k) * sums[dy][dx];
    }
  }
  const int64_t line = int64_t(shape.width) * shape.channels;
  T* to = result + (int64_t(place.n) * shape.height + 2 * place.row) * line +
          2 * place.column * int64_t(shape.channels) + place.channel;
#pragma unroll
  for (int dy = 0; dy < 2; ++dy) {
#pragma unroll
    for (int dx = 0; dx < 2; ++dx) {
      if (2 * place.row + dy >= shape.height || 2 * place.column + dx >= shape.width) continue;
      store_pack(to + dy * line + dx * shape.channels, narrow_pack<T, kWidth>(gradients[dy][dx]));
    }
  }
}

}  // namespace perceptual_ops
