// Launchers of the poolings after a bias and ReLU, forward and backward. Plain pointers, shapes in comments; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/element.h"
#include "pooling.h"
#include "terms.h"

namespace perceptual_ops {

// pooled = pooling of relu(x + bias), or of x + bias; codes of the windows (pooling.h), with none where nothing passes
// the ReLU. One launch, or two with codes of "blur" where channels do not come in eights.
cudaError_t launch_bias_relu_pool(Element element, int64_t batch, int64_t channels, const Pooling& pooling,
                                  const void* x,  // (N, H, W, C)
                                  const BiasPointers& bias, bool relu,
                                  void* pooled,    // (N, out_height, out_width, C)
                                  uint8_t* codes,  // (N, code_bytes), or null; null for "average"
                                  cudaStream_t stream);

// x = (signs ? factor * (gradient of the pooling) + tap : 0) + below
cudaError_t launch_bias_relu_pool_backward(Element element, int64_t batch, int64_t channels, const Pooling& pooling,
                                           void* x,               // (N, H, W, C)
                                           const void* grad,      // (N, out_height, out_width, C)
                                           const uint8_t* codes,  // (N, code_bytes); null for "average"
                                           const BackwardTerms& terms, cudaStream_t stream);

}  // namespace perceptual_ops
