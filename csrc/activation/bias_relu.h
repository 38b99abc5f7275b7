// Launchers of the bias and ReLU after a convolution, forward and backward, in-place. Plain pointers, shapes in
// comments; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/element.h"
#include "terms.h"

namespace perceptual_ops {

// x = relu(x + bias); signs: where the result is positive or NaN, the first element in the lowest bit.
cudaError_t launch_bias_relu(Element element, const MapShape& shape,
                             void* x,  // (N, H, W, C)
                             const BiasPointers& bias,
                             uint8_t* signs,  // (N, ceil(E / 8)), or null
                             cudaStream_t stream);

// grad = (signs ? factor * grad + tap : 0) + below
cudaError_t launch_bias_relu_backward(Element element, const MapShape& shape,
                                      void* grad,  // (N, H, W, C)
                                      const BackwardTerms& terms, cudaStream_t stream);

}  // namespace perceptual_ops
