// Launchers of the normalisation of images and its gradient. Plain pointers, shapes in comments; no torch. `Acc` is
// fp32, or fp64 where the images or the result (of the gradient: what comes in) are fp64.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/element.h"
#include "terms.h"

namespace perceptual_ops {

// Elements from sample to sample, channel to channel, row to row, pixel to pixel; any of them may be 0.
struct MapStrides {
  int64_t n, c, h, w;
};

// result = images * scale + shift by channel
cudaError_t launch_normalize(Element image_element, Element element, const MapShape& shape,
                             const void* images,  // (N, C, H, W)
                             const MapStrides& strides,
                             const void* scale,  // (C) Acc
                             const void* shift,  // (C) Acc
                             void* result,       // (N, H, W, C), dense
                             cudaStream_t stream);

// result = factor * scale * grad + add
cudaError_t launch_normalize_backward(Element element, const MapShape& shape,
                                      const void* grad,    // (N, H, W, C), dense
                                      const void* scale,   // (C) Acc
                                      const void* factor,  // (N) Acc, or null for ones
                                      const void* add,     // (N, C, H, W) Acc, or null
                                      const MapStrides& add_strides,
                                      void* result,  // (N, C, H, W) Acc
                                      const MapStrides& result_strides, cudaStream_t stream);

}  // namespace perceptual_ops
