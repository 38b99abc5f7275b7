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

// x = relu(x + bias), pooled = pooling of what x is then; signs as launch_bias_relu's, codes of the windows. One launch
// for 2 x 2 windows of "max" and "average" at stride 2 where channels come in eights, else those of launch_bias_relu
// and launch_bias_relu_pool.
cudaError_t launch_bias_relu_pool_in_place(Element element, int64_t batch, int64_t channels, const Pooling& pooling,
                                           void* x,  // (N, H, W, C)
                                           const BiasPointers& bias,
                                           void* pooled,    // (N, out_height, out_width, C)
                                           uint8_t* signs,  // (N, ceil(E / 8)), or null
                                           uint8_t* codes,  // (N, code_bytes), or null; null for "average"
                                           cudaStream_t stream);

// x = (signs ? factor * (gradient of the pooling) + tap : 0) + below
cudaError_t launch_bias_relu_pool_backward(Element element, int64_t batch, int64_t channels, const Pooling& pooling,
                                           void* x,               // (N, H, W, C)
                                           const void* grad,      // (N, out_height, out_width, C)
                                           const uint8_t* codes,  // (N, code_bytes); null for "average"
                                           const BackwardTerms& terms, cudaStream_t stream);

}  // namespace perceptual_ops
