// Launchers of the total variation. Plain pointers, shapes in comments; no torch. `Acc` is fp32, or fp64 for fp64
// images.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/distance.h"
#include "../common/element.h"

namespace perceptual_ops {

// A batch of dense images as rows of numbers: in NCHW a row is one channel's row of pixels, in NHWC a row of all
// channels. The pixel to the right is `step` elements on, the row below `length` elements.
struct ImageRows {
  int64_t batch;     // N
  int64_t planes;    // C in NCHW, 1 in NHWC
  int64_t height;    // H
  int64_t length;    // W in NCHW, W * C in NHWC
  int64_t step;      // 1 in NCHW, C in NHWC
  int64_t stride_n;  // elements from image to image

  PO_HOST_DEVICE int64_t count() const { return planes * height; }
  PO_HOST_DEVICE int64_t size() const { return count() * length; }
};

// Partial sums an image.
int64_t total_variation_blocks(const ImageRows& rows);

// values[n] = sum of d over the differences to the right and down, d = squared or L1.
cudaError_t launch_total_variation(Element element, const ImageRows& rows, Distance distance,
                                   const void* x,  // (N, planes, H, length)
                                   void* partial,  // (N, blocks) Acc, scratch
                                   void* values,   // (N) Acc
                                   cudaStream_t stream);

cudaError_t launch_total_variation_gradient(Element element, const ImageRows& rows, Distance distance,
                                            const void* x,     // (N, planes, H, length)
                                            const void* grad,  // (N) Acc
                                            void* dx,          // (N, planes, H, length), dense
                                            cudaStream_t stream);

}  // namespace perceptual_ops
