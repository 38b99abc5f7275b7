// Launchers of the feature loss. Plain pointers, shapes in comments; no torch. `Acc` is fp32, or fp64 for fp64 maps.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/distance.h"
#include "../common/element.h"

namespace perceptual_ops {

// Two batches of dense samples in one memory layout.
struct SamplePair {
  const void* x;     // (N, E), E = C * H * W
  const void* y;     // (N or 1, E)
  int64_t batch;     // N
  int64_t size;      // E
  int64_t stride_x;  // elements from sample to sample
  int64_t stride_y;  // elements; 0 where one sample stands for all
};

// Partial sums a sample.
int64_t feature_loss_blocks(int64_t sample_size);

// values[n] = value_scale * sum of d(x - y), loss[n] = (or +=) weight * values[n].
cudaError_t launch_feature_loss(Element element, const SamplePair& samples, Distance distance, double parameter,
                                double value_scale, double weight, bool first_layer,
                                void* partial,  // (N, blocks) Acc, scratch
                                void* values,   // (N) Acc
                                void* loss,     // (N) Acc
                                cudaStream_t stream);

// dx = grad[n] * slope_scale * d'(x - y)
cudaError_t launch_feature_loss_gradient(Element element, const SamplePair& samples, Distance distance,
                                         double parameter, double slope_scale,
                                         const void* grad,  // (N) Acc
                                         void* dx,          // (N, E)
                                         cudaStream_t stream);

}  // namespace perceptual_ops
