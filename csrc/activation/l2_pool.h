// Launchers of DISTS's pooling, forward and backward. Plain pointers, shapes in comments; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/element.h"
#include "l2_pooling.h"
#include "terms.h"

namespace perceptual_ops {

// pooled = sqrt(sum over the window of k x^2 + 1e-12), k = [1, 2, 1] x [1, 2, 1] / 16
cudaError_t launch_l2_pool(Element element, const MapShape& shape,
                           const void* x,     // (N, H, W, C), dense samples
                           int64_t stride_x,  // elements from sample to sample
                           void* pooled,      // (N, H', W', C)
                           cudaStream_t stream);

// dx = x * sum over the windows that cover it of k grad / pooled
cudaError_t launch_l2_pool_backward(Element element, const MapShape& shape,
                                    const void* grad,     // (N, H', W', C), dense samples
                                    int64_t stride_grad,  // elements from sample to sample
                                    const void* x,        // (N, H, W, C), dense samples
                                    int64_t stride_x,     // elements from sample to sample
                                    void* dx,             // (N, H, W, C)
                                    cudaStream_t stream);

}  // namespace perceptual_ops
