// Launchers of the DISTS distance. Plain pointers, shapes in comments; no torch. `Acc` is fp32, or fp64 for fp64 maps.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "../common/element.h"
#include "../common/feature_map.h"
#include "statistics.h"

namespace perceptual_ops {

// Two batches of dense samples in one memory layout.
struct DistsLayer {
  Layout layout;
  int64_t channels;   // C
  int64_t pixels;     // P
  const void* x;      // (N, C, P) or (N, P, C)
  const void* y;      // (N or 1, C, P) or (N or 1, P, C)
  int64_t stride_x;   // elements from sample to sample
  int64_t stride_y;   // elements; 0 where one sample stands for all
  const void* alpha;  // (C) Acc
  const void* beta;   // (C) Acc
  void* statistics;   // (N, 6, C) Acc: written by the value, read by the gradient
  void* dx;           // like x, samples side by side; null where d loss / dx is not wanted
  void* dy;           // (N, ...) likewise: the gradient of each sample, also where one y stands for all
};

// Where the values go.
struct DistsValues {
  void* partial;       // (sizes.partial) Acc, scratch
  void* of_groups;     // (sizes.groups) Acc, scratch
  uint32_t* arrivals;  // (N + sizes.groups), zeros that the launch uses up
  void* values;        // (L, N) Acc
  void* loss;          // (N) Acc
};

MomentSizes dists_sizes(Element element, const std::vector<DistsLayer>& layers, int64_t batch);

// Statistics of every layer; values[l, n] = sum over c of alpha_c me^2 / (mx^2 + my^2 + 1e-6) + beta_c ve / (vx + vy +
// 1e-6) with the means m and variances v of x, y and e = x - y; loss[n] = sum of values[l, n]. One launch for every
// kDistsLayers (walk.cuh) layers.
cudaError_t launch_dists(Element element, const std::vector<DistsLayer>& layers,  // (L)
                         int64_t batch, const DistsValues& values, cudaStream_t stream);

// dx and dy, which all layers have or none, of sum of grad[n] * loss[n]. As many launches.
cudaError_t launch_dists_backward(Element element, const std::vector<DistsLayer>& layers,  // (L)
                                  int64_t batch,
                                  const void* grad,  // (N) Acc
                                  cudaStream_t stream);

}  // namespace perceptual_ops
