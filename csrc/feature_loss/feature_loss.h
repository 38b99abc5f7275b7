// Launcher of the feature loss. Plain pointers, shapes in comments; no torch. `Acc` is fp32, or fp64 for fp64 maps.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "../common/distance.h"
#include "../common/element.h"
#include "../common/wanted.h"

namespace perceptual_ops {

// Two batches of dense samples in one memory layout.
struct FeatureLayer {
  const void* x;     // (N, E), E = C * H * W
  const void* y;     // (N or 1, E)
  void* dx;          // (N, E), dense; null where no gradient is wanted
  int64_t size;      // E
  int64_t stride_x;  // elements from sample to sample
  int64_t stride_y;  // elements; 0 where one sample stands for all
  double scale;      // of the sum of distances: 1 / E for their mean
  double weight;     // of the layer in the loss
};

// Where the values go; nothing of it is touched where none are wanted.
struct FeatureValues {
  void* partial;       // (feature_loss_blocks) Acc, scratch
  uint32_t* arrivals;  // (L + 1, N), zeros that the launch uses up
  void* values;        // (L, N) Acc
  void* loss;          // (N) Acc
};

// Partial sums of all layers and samples.
int64_t feature_loss_blocks(Element element, const std::vector<FeatureLayer>& layers, int64_t batch);

// values[l, n] = scale_l * sum of d(x - y), loss[n] = sum of weight_l * values[l, n],
// dx_l = grad[n] * weight_l * scale_l * d'(x - y): one launch for every kTableLayers (feature_loss.cuh) layers.
cudaError_t launch_feature_loss(Element element, Wanted wanted, const std::vector<FeatureLayer>& layers,  // (L)
                                int64_t batch, Distance distance, double parameter, const FeatureValues& values,
                                const void* grad,  // (N) Acc, or null for ones
                                cudaStream_t stream);

}  // namespace perceptual_ops
