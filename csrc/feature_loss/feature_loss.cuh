// Kernels of the feature loss: pointwise, so a sample is a row of numbers whatever its layout. Each block sums one
// chunk of one sample into its own slot; a second kernel sums the slots in a fixed order.
#pragma once

#include "../common/cuda_element.cuh"
#include "../common/distance.h"
#include "../common/reduce.cuh"

namespace perceptual_ops {

constexpr int kLossThreads = 256;
constexpr int64_t kLossChunk = 32 * kLossThreads;  // elements of a block: short fp32 sums, few slots

// Grid: N * blocks, blocks innermost, under 2^31 (feature_loss.cu checks): a 64-bit division would be a call that
// spills.
template <class T, Distance kDistance>
__global__ void __launch_bounds__(kLossThreads)
    feature_loss_partial_kernel(const T* __restrict__ x,  // (N, E)
                                const T* __restrict__ y,  // (N or 1, E)
                                int64_t size, int64_t stride_x, int64_t stride_y, uint32_t blocks,
                                DeviceAccumulator<T> parameter,
                                DeviceAccumulator<T>* __restrict__ partial) {  // (N, blocks)
  const int64_t n = blockIdx.x / blocks, first = int64_t(blockIdx.x % blocks) * kLossChunk;
  const int64_t end = min(size, first + kLossChunk);
  const T *x_sample = x + n * stride_x, *y_sample = y + n * stride_y;
  DeviceAccumulator<T> sum = 0;
  for (int64_t i = first + threadIdx.x; i < end; i += kLossThreads) {
    sum += distance_at<kDistance>(widen(x_sample[i]) - widen(y_sample[i]), parameter).value;
  }
  sum = block_sum<kLossThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block a sample.
template <class Acc>
__global__ void __launch_bounds__(kLossThreads)
    feature_loss_finish_kernel(const Acc* __restrict__ partial,  // (N, blocks)
                               int64_t blocks, Acc value_scale, Acc weight, bool first_layer,
                               Acc* __restrict__ values,  // (N)
                               Acc* __restrict__ loss) {  // (N)
  const int64_t n = blockIdx.x;
  Acc sum = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kLossThreads) sum += partial[n * blocks + i];
  sum = block_sum<kLossThreads>(sum);
  if (threadIdx.x == 0) {
    values[n] = value_scale * sum;
    loss[n] = (first_layer ? Acc(0) : loss[n]) + weight * values[n];
  }
}

// Grid: as the partial sums.
template <class T, Distance kDistance>
__global__ void __launch_bounds__(kLossThreads)
    feature_loss_gradient_kernel(const T* __restrict__ x,  // (N, E)
                                 const T* __restrict__ y,  // (N or 1, E)
                                 int64_t size, int64_t stride_x, int64_t stride_y, uint32_t blocks,
                                 DeviceAccumulator<T> parameter, DeviceAccumulator<T> slope_scale,
                                 const DeviceAccumulator<T>* __restrict__ grad,  // (N)
                                 T* __restrict__ dx) {                           // (N, E)
  const int64_t n = blockIdx.x / blocks, first = int64_t(blockIdx.x % blocks) * kLossChunk;
  const int64_t end = min(size, first + kLossChunk);
  const T *x_sample = x + n * stride_x, *y_sample = y + n * stride_y;
  const DeviceAccumulator<T> factor = slope_scale * grad[n];
  for (int64_t i = first + threadIdx.x; i < end; i += kLossThreads) {
    const auto slope = distance_at<kDistance>(widen(x_sample[i]) - widen(y_sample[i]), parameter).slope;
    dx[n * size + i] = narrow<T>(factor * slope);
  }
}

}  // namespace perceptual_ops
