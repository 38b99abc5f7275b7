// Kernel of loss scaling: a thread a sample. One launch in place of the dozen that torch's operations would
// take. Targets: 128 threads; registers and memory do not matter.
#pragma once

#include "loss_scale.h"

namespace perceptual_ops {

constexpr int kScaleThreads = 128;

// Grid: the samples by kScaleThreads.
__global__ void __launch_bounds__(kScaleThreads) loss_scale_kernel(const __grid_constant__ LossScaling scaling) {
  const int64_t n = int64_t(blockIdx.x) * kScaleThreads + threadIdx.x;
  if (n < scaling.batch) choose_scale(scaling, n);
}

}  // namespace perceptual_ops
