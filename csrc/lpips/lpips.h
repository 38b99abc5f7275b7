// Launcher of LPIPS, with its gradients. Plain pointers, shapes in comments; no torch. `Acc` is fp32, or fp64 for fp64
// maps.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "../common/element.h"
#include "../common/feature_map.h"

namespace perceptual_ops {

// Two batches of dense samples in one layout. What is null is not read, or not wanted; every layer wants the same.
struct LpipsLayer {
  const void* x;         // (N, C, P)
  const void* y;         // (N or 1, C, P)
  const void* weights;   // (C) Acc
  void* dx;              // (N, C, P), dense, or null
  void* dy;              // (N, C, P), dense, or null
  void* map;             // (N, P) Acc: the distance of each pixel; or null. Not with dx or dy
  const void* map_grad;  // (N, P) Acc: upstream of each pixel; or null for that of its sample
  int64_t channels;      // C
  int64_t pixels;        // P
  int64_t stride_x;      // elements from sample to sample
  int64_t stride_y;      // elements; 0 where one sample stands for all
  Layout layout;
};

// Where the values go; all null where none are wanted.
struct LpipsValues {
  void* partial;       // (lpips_blocks) Acc, scratch
  uint32_t* arrivals;  // (L + 1, N), zeros that the launch uses up
  void* values;        // (L, N) Acc
  void* loss;          // (N) Acc
};

// Partial sums of all layers and samples.
int64_t lpips_blocks(Element element, const std::vector<LpipsLayer>& layers, int64_t batch);

// map = sum over c of weights_c (x_c / |x| - y_c / |y|)^2 of each pixel, where |x| is sqrt(sum x_c^2) + eps, or
// sqrt(sum x_c^2 + eps) if eps_inside; values[l, n] = mean of map over the pixels, loss[n] = sum of values[l, n];
// dx and dy = gradients of map times map_grad, or of loss times grad. One launch for every kPixelLayers (lpips.cuh)
// layers.
cudaError_t launch_lpips(Element element, const std::vector<LpipsLayer>& layers,  // (L)
                         int64_t batch, double eps, bool eps_inside, const LpipsValues& values,
                         const void* grad,  // (N) Acc, or null for ones
                         cudaStream_t stream);

}  // namespace perceptual_ops
