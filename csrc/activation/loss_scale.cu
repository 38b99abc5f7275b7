#include "../common/feature_map.h"
#include "../common/launch.h"
#include "loss_scale.cuh"

namespace perceptual_ops {

cudaError_t launch_loss_scale(const LossScaling& scaling, cudaStream_t stream) {
  const int64_t blocks = ceil_div(scaling.batch, kScaleThreads);
  if (!fits_grid(blocks)) return cudaErrorInvalidConfiguration;
  launch_kernel(loss_scale_kernel, blocks, kScaleThreads, 0, stream, scaling);
  return cudaGetLastError();
}

}  // namespace perceptual_ops
