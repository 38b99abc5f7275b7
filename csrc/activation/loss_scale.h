// Launcher of loss scaling. Plain pointers, shapes in comments; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "loss_scaling.h"

namespace perceptual_ops {

cudaError_t launch_loss_scale(const LossScaling& scaling, cudaStream_t stream);

}  // namespace perceptual_ops
