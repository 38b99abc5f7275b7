// Launchers of the Gram room. Plain pointers, shapes in comments; no torch. `Acc` is fp32, or fp64 for fp64 maps.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/distance.h"
#include "../common/element.h"
#include "../common/feature_map.h"

namespace perceptual_ops {

// Into how many ranges the pixels are split, so that maps of few channels still fill the device. A pure function of the
// map: the same input gives the same bits on every device.
int64_t gram_splits(const FeatureMap& map);

// gram = scale * X X^T of every sample.
cudaError_t launch_gram(Element element, const FeatureMap& map,
                        const void* x,  // (N, C, P), strides of `map`
                        void* partial,  // (splits, N, C, C) Acc, scratch
                        void* gram,     // (N, C, C) Acc
                        double scale, cudaStream_t stream);

// values[n] = value_scale * sum of d(gram - target), loss[n] = (or +=) weight * values[n], and the slopes
// slope_scale * (D + D^T) with D = d'(gram - target).
struct StyleDistance {
  Distance distance;
  double parameter;
  double value_scale;
  double slope_scale;
  double weight;
  bool first_layer;  // loss is set, not added to
};
cudaError_t launch_style_distance(Element element, int64_t batch, int64_t channels, int64_t target_batch,
                                  const void* gram,     // (N, C, C) Acc
                                  const void* targets,  // (N or 1, C, C) Acc
                                  const StyleDistance& style,
                                  void* slopes,  // (N, C, C) Acc
                                  void* values,  // (N) Acc
                                  void* loss,    // (N) Acc
                                  cudaStream_t stream);

// symmetric = scale * (D + D^T)
cudaError_t launch_symmetrise(Element element, int64_t batch, int64_t channels,
                              const void* slopes,  // (N, C, C) Acc
                              double scale,
                              void* symmetric,  // (N, C, C) Acc
                              cudaStream_t stream);

// dx[n] = grad[n] * S[n] X[n]
cudaError_t launch_gram_gradient(Element element, const FeatureMap& map,
                                 const void* symmetric,  // (N, C, C) Acc
                                 const void* grad,       // (N) Acc, or null for ones
                                 const void* x,          // (N, C, P), strides of `map`
                                 const FeatureMap& dx_map,
                                 void* dx,  // (N, C, P), strides of `dx_map`
                                 cudaStream_t stream);

}  // namespace perceptual_ops
