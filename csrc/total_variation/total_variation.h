// Launcher of the total variation. Plain pointers, shapes in comments; no torch. `Acc` is fp32, or fp64 for fp64
// images.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/distance.h"
#include "../common/element.h"
#include "../common/wanted.h"

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

  PO_HOST_DEVICE int64_t size() const { return planes * height * length; }
};

// Where the values go; nothing of it is touched where none are wanted.
struct VariationValues {
  void* partial;       // (N, total_variation_slots) Acc, scratch
  uint32_t* arrivals;  // (N), zeros that the launch uses up
  void* values;        // (N) Acc
};

// Partial sums of an image that any launch has room in.
int64_t total_variation_slots(const ImageRows& rows);

// values[n] = sum of d over the differences to the right and down, d = squared or L1; dx = grad[n] * their gradient.
cudaError_t launch_total_variation(Element element, Wanted wanted, const ImageRows& rows, Distance distance,
                                   const void* x,  // (N, planes, H, length)
                                   const VariationValues& values,
                                   const void* grad,  // (N) Acc, or null for ones
                                   void* dx,          // (N, planes, H, length), dense
                                   cudaStream_t stream);

}  // namespace perceptual_ops
