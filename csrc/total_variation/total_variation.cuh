// Kernels of the total variation. A warp walks along one row: every lane looks at its element's neighbours to the right
// and below (and, for the gradient, to the left and above). Sums go to one slot a block and are summed in a fixed
// order.
#pragma once

#include "../common/cuda_element.cuh"
#include "../common/reduce.cuh"
#include "total_variation.h"

namespace perceptual_ops {

constexpr int kVariationRows = 8;  // rows of a block, one a warp
constexpr int kVariationThreads = kVariationRows * kWarp;

// Grids are N * blocks, blocks innermost, under 2^31 (total_variation.cu checks), as are the rows of an image: a 64-bit
// division would be a call that spills.

template <class T, Distance kDistance>
__global__ void __launch_bounds__(kVariationThreads)
    total_variation_partial_kernel(const T* __restrict__ x,  // (N, planes, H, length)
                                   ImageRows rows, uint32_t blocks,
                                   DeviceAccumulator<T>* __restrict__ partial) {  // (N, blocks)
  using Acc = DeviceAccumulator<T>;
  const uint32_t row = blockIdx.x % blocks * kVariationRows + threadIdx.x / kWarp;
  Acc sum = 0;
  if (row < rows.count()) {
    const bool has_below = row % uint32_t(rows.height) + 1 < rows.height;
    const T* line = x + blockIdx.x / blocks * rows.stride_n + row * rows.length;
    for (int64_t i = threadIdx.x % kWarp; i < rows.length; i += kWarp) {
      const Acc here = widen(line[i]);
      if (i + rows.step < rows.length) {
        sum += distance_at<kDistance>(widen(line[i + rows.step]) - here, Acc(0)).value;
      }
      if (has_below) sum += distance_at<kDistance>(widen(line[i + rows.length]) - here, Acc(0)).value;
    }
  }
  sum = block_sum<kVariationThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Grid: N, one block an image.
template <class Acc>
__global__ void __launch_bounds__(kVariationThreads)
    total_variation_finish_kernel(const Acc* __restrict__ partial,  // (N, blocks)
                                  int64_t blocks,
                                  Acc* __restrict__ values) {  // (N)
  Acc sum = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kVariationThreads) sum += partial[blockIdx.x * blocks + i];
  sum = block_sum<kVariationThreads>(sum);
  if (threadIdx.x == 0) values[blockIdx.x] = sum;
}

template <class T, Distance kDistance>
__global__ void __launch_bounds__(kVariationThreads)
    total_variation_gradient_kernel(const T* __restrict__ x,  // (N, planes, H, length)
                                    ImageRows rows, uint32_t blocks,
                                    const DeviceAccumulator<T>* __restrict__ grad,  // (N)
                                    T* __restrict__ dx) {                           // (N, planes, H, length)
  using Acc = DeviceAccumulator<T>;
  const uint32_t row = blockIdx.x % blocks * kVariationRows + threadIdx.x / kWarp;
  if (row >= rows.count()) return;
  const int64_t n = blockIdx.x / blocks;
  const uint32_t height_index = row % uint32_t(rows.height);
  const bool has_above = height_index > 0, has_below = height_index + 1 < rows.height;
  const T* line = x + n * rows.stride_n + row * rows.length;
  T* out = dx + n * rows.size() + row * rows.length;
  for (int64_t i = threadIdx.x % kWarp; i < rows.length; i += kWarp) {
    const Acc here = widen(line[i]);
    Acc sum = 0;
    if (i >= rows.step) sum += distance_at<kDistance>(here - widen(line[i - rows.step]), Acc(0)).slope;
    if (i + rows.step < rows.length) {
      sum -= distance_at<kDistance>(widen(line[i + rows.step]) - here, Acc(0)).slope;
    }
    if (has_above) sum += distance_at<kDistance>(here - widen(line[i - rows.length]), Acc(0)).slope;
    if (has_below) sum -= distance_at<kDistance>(widen(line[i + rows.length]) - here, Acc(0)).slope;
    out[i] = narrow<T>(grad[n] * sum);
  }
}

}  // namespace perceptual_ops
