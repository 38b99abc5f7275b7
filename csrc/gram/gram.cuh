// Kernels of the Gram room.
//
// Gram: one block sums one 64 x 64 tile on or below the diagonal of one sample over one range of pixels. The ranges'
// partial sums go to a workspace and are summed in order by a second kernel, which mirrors the tile: no atomics, the
// same bits every time. Gradient: one block makes a 64 channel x 64 pixel tile of S X. Both hold 4 x 4 results a
// thread.
#pragma once

#include "../common/cuda_element.cuh"
#include "../common/distance.h"
#include "../common/feature_map.h"
#include "../common/reduce.cuh"
#include "../common/shared.cuh"

namespace perceptual_ops {

constexpr int kTile = 64;             // channels (and, in the gradient, pixels) of a tile
constexpr int kDepth = 16;            // summed elements held in shared memory at a time
constexpr int kSide = 16;             // threads along each side of a tile
constexpr int kEach = kTile / kSide;  // results of a thread along each side
constexpr int kTileThreads = kSide * kSide;
constexpr int kPitch = kTile + 4;  // moves the rows of a tile to different banks
// Blocks on an SM: up to 128 registers a thread, which fp64 takes. Without it the compiler aims for more blocks and
// spills.
constexpr int kTileBlocks = 2;
static_assert(kTile * kDepth % kTileThreads == 0, "every thread stages the same number of elements");

template <class Acc>
using Tile = Acc[kDepth][kPitch];

constexpr int kSumThreads = 1024;
constexpr int kRowThreads = 128;  // threads that walk along one row of a (C, C) matrix

// Stages rows [first_row, first_row + kTile) x [first_deep, first_deep + kDepth) of a matrix as tile[deep][row], zero
// where it ends. `deep_fastest` says along which axis neighbouring threads read, so that their reads are side by side.
template <bool kDeepFastest, class T, class Acc>
__device__ __forceinline__ void stage_tile(const T* matrix, int64_t rows, int64_t deep_end, int64_t row_stride,
                                           int64_t deep_stride, int64_t first_row, int64_t first_deep,
                                           Tile<Acc>& tile) {
  for (int i = threadIdx.x; i < kTile * kDepth; i += kTileThreads) {
    const int row = kDeepFastest ? i / kDepth : i % kTile;
    const int deep = kDeepFastest ? i % kDepth : i / kTile;
    const bool inside = first_row + row < rows && first_deep + deep < deep_end;
    tile[deep][row] =
        inside ? widen(matrix[(first_row + row) * row_stride + (first_deep + deep) * deep_stride]) : Acc(0);
  }
}

template <class Acc>
__device__ __forceinline__ void multiply_tiles(const Tile<Acc>& a, const Tile<Acc>& b, Acc (&sums)[kEach][kEach]) {
  const int row = threadIdx.x / kSide, column = threadIdx.x % kSide;
#pragma unroll
  for (int deep = 0; deep < kDepth; ++deep) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) sums[i][j] += a[deep][row + i * kSide] * b[deep][column + j * kSide];
    }
  }
}

// Tile number t of the lower triangle, row by row: (0, 0), (1, 0), (1, 1), (2, 0), ...
__device__ __forceinline__ void triangle_tile(uint32_t t, int64_t& row, int64_t& column) {
  uint32_t first = 0;  // the number of the row's first tile
  for (row = 0; first + row < t; ++row) first += row + 1;
  column = t - first;
}

// Grids are one-dimensional, the fastest index innermost, and under 2^31 blocks (gram.cu checks): block indices are
// taken apart in 32 bits, since a 64-bit division is a call that spills. Offsets are 64 bits.

// Grid: N * splits * tiles.
template <class T, bool kNhwc>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks)
    gram_partial_kernel(const T* __restrict__ x,  // (N, C, P), strides of `map`
                        FeatureMap map, uint32_t tiles, uint32_t splits, int64_t pixels_per_split,
                        DeviceAccumulator<T>* __restrict__ partial) {  // (splits, N, C, C)
  using Acc = DeviceAccumulator<T>;
  PO_SHARED(Tile<Acc>, a);
  PO_SHARED(Tile<Acc>, b);
  const int64_t split = blockIdx.x / tiles % splits, n = blockIdx.x / tiles / splits;
  int64_t tile_row, tile_column;
  triangle_tile(blockIdx.x % tiles, tile_row, tile_column);
  const T* sample = x + n * map.stride_n;
  const int64_t end = min(map.pixels, (split + 1) * pixels_per_split);

  Acc sums[kEach][kEach] = {};
  for (int64_t p = split * pixels_per_split; p < end; p += kDepth) {
    stage_tile<!kNhwc>(sample, map.channels, end, map.stride_c, map.stride_p, tile_row * kTile, p, a);
    stage_tile<!kNhwc>(sample, map.channels, end, map.stride_c, map.stride_p, tile_column * kTile, p, b);
    __syncthreads();  // the tiles are whole
    multiply_tiles(a, b, sums);
    __syncthreads();  // the tiles are read, the next step may overwrite them
  }

  Acc* out = partial + (split * map.batch + n) * map.channels * map.channels;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t row = tile_row * kTile + threadIdx.x / kSide + i * kSide;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int64_t column = tile_column * kTile + threadIdx.x % kSide + j * kSide;
      if (row < map.channels && column < map.channels) out[row * map.channels + column] = sums[i][j];
    }
  }
}

// Sums the splits in order and mirrors. Grid: N * C, one block a row.
template <class Acc>
__global__ void __launch_bounds__(kRowThreads)
    gram_finish_kernel(const Acc* __restrict__ partial,  // (splits, N, C, C), lower tiles written
                       int64_t splits, int64_t batch, uint32_t channels, Acc scale,
                       Acc* __restrict__ gram) {  // (N, C, C)
  const uint32_t row = blockIdx.x % channels;
  const int64_t area = int64_t(channels) * channels, first = blockIdx.x / channels * area;
  for (uint32_t column = threadIdx.x; column < channels; column += kRowThreads) {
    const Acc* source = partial + first + int64_t(max(row, column)) * channels + min(row, column);
    Acc sum = 0;
    for (int64_t split = 0; split < splits; ++split) sum += source[split * batch * area];
    gram[first + int64_t(row) * channels + column] = scale * sum;
  }
}

// One block a sample.
template <class Acc, Distance kDistance>
__global__ void __launch_bounds__(kSumThreads) style_value_kernel(const Acc* __restrict__ gram,     // (N, C, C)
                                                                  const Acc* __restrict__ targets,  // (N or 1, C, C)
                                                                  int64_t area, int64_t target_stride, Acc parameter,
                                                                  Acc value_scale, Acc weight, bool first_layer,
                                                                  Acc* __restrict__ values,  // (N)
                                                                  Acc* __restrict__ loss) {  // (N)
  const int64_t n = blockIdx.x;
  Acc sum = 0;
  for (int64_t i = threadIdx.x; i < area; i += kSumThreads) {
    sum += distance_at<kDistance>(gram[n * area + i] - targets[n * target_stride + i], parameter).value;
  }
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) {
    values[n] = value_scale * sum;
    loss[n] = (first_layer ? Acc(0) : loss[n]) + weight * values[n];
  }
}

// The target Gram need not be symmetric, so both (i, j) and (j, i) are evaluated. Grid: N * C, one block a row.
template <class Acc, Distance kDistance>
__global__ void __launch_bounds__(kRowThreads)
    style_slope_kernel(const Acc* __restrict__ gram,     // (N, C, C)
                       const Acc* __restrict__ targets,  // (N or 1, C, C)
                       uint32_t channels, int64_t target_stride, Acc parameter, Acc slope_scale,
                       Acc* __restrict__ slopes) {  // (N, C, C)
  const uint32_t row = blockIdx.x % channels, n = blockIdx.x / channels;
  const int64_t first = n * int64_t(channels) * channels;
  const Acc* target = targets + n * target_stride;
  for (uint32_t column = threadIdx.x; column < channels; column += kRowThreads) {
    const int64_t place = int64_t(row) * channels + column, mirrored = int64_t(column) * channels + row;
    const Acc here = distance_at<kDistance>(gram[first + place] - target[place], parameter).slope;
    const Acc there = distance_at<kDistance>(gram[first + mirrored] - target[mirrored], parameter).slope;
    slopes[first + place] = slope_scale * (here + there);
  }
}

// Grid: N * C, one block a row.
template <class Acc>
__global__ void __launch_bounds__(kRowThreads) symmetrise_kernel(const Acc* __restrict__ slopes,  // (N, C, C)
                                                                 uint32_t channels, Acc scale,
                                                                 Acc* __restrict__ symmetric) {  // (N, C, C)
  const uint32_t row = blockIdx.x % channels;
  const int64_t first = blockIdx.x / channels * (int64_t(channels) * channels);
  for (uint32_t column = threadIdx.x; column < channels; column += kRowThreads) {
    const int64_t place = int64_t(row) * channels + column, mirrored = int64_t(column) * channels + row;
    symmetric[first + place] = scale * (slopes[first + place] + slopes[first + mirrored]);
  }
}

// Grid: N * channel tiles * pixel tiles.
template <class T, bool kNhwc>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks)
    gram_gradient_kernel(const DeviceAccumulator<T>* __restrict__ symmetric,  // (N, C, C)
                         const DeviceAccumulator<T>* __restrict__ grad,       // (N), or null for ones
                         const T* __restrict__ x,                             // (N, C, P), strides of `map`
                         FeatureMap map, FeatureMap dx_map, uint32_t pixel_tiles, uint32_t channel_tiles,
                         T* __restrict__ dx) {  // (N, C, P), strides of `dx_map`
  using Acc = DeviceAccumulator<T>;
  PO_SHARED(Tile<Acc>, s);
  PO_SHARED(Tile<Acc>, pixels);
  const int64_t first_pixel = int64_t(blockIdx.x % pixel_tiles) * kTile;
  const int64_t first_channel = int64_t(blockIdx.x / pixel_tiles % channel_tiles) * kTile;
  const int64_t n = blockIdx.x / pixel_tiles / channel_tiles;
  const Acc* matrix = symmetric + n * map.channels * map.channels;

  Acc sums[kEach][kEach] = {};
  for (int64_t c = 0; c < map.channels; c += kDepth) {
    stage_tile<true>(matrix, map.channels, map.channels, map.channels, int64_t(1), first_channel, c, s);
    stage_tile<kNhwc>(x + n * map.stride_n, map.pixels, map.channels, map.stride_p, map.stride_c, first_pixel, c,
                      pixels);
    __syncthreads();  // the tiles are whole
    // Rows are what neighbouring threads write side by side last: pixels in NCHW, channels in NHWC.
    if constexpr (kNhwc) {
      multiply_tiles(pixels, s, sums);
    } else {
      multiply_tiles(s, pixels, sums);
    }
    __syncthreads();  // the tiles are read, the next step may overwrite them
  }

  const Acc upstream = grad == nullptr ? Acc(1) : grad[n];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int64_t row = threadIdx.x / kSide + i * kSide, column = threadIdx.x % kSide + j * kSide;
      const int64_t channel = first_channel + (kNhwc ? column : row), pixel = first_pixel + (kNhwc ? row : column);
      if (channel < map.channels && pixel < map.pixels) {
        dx[n * dx_map.stride_n + channel * dx_map.stride_c + pixel * dx_map.stride_p] =
            narrow<T>(upstream * sums[i][j]);
      }
    }
  }
}

}  // namespace perceptual_ops
