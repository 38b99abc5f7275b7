// Launchers of the means and standard deviations of a map's channels. Plain pointers, shapes in comments; no torch.
// `Acc` is fp32, or fp64 for fp64 maps.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "../common/element.h"
#include "../common/feature_map.h"
#include "statistics.h"

namespace perceptual_ops {

// A batch of samples, each dense, in one memory layout.
struct StatisticsLayer {
  Layout layout;
  int64_t channels;      // C
  int64_t pixels;        // P
  const void* x;         // (N, C, P) or (N, P, C)
  int64_t stride_x;      // elements from sample to sample
  void* statistics;      // (N, 2, C) Acc: means and deviations, written by the value, read by the gradient
  const void* slopes;    // (N, 2, C) Acc: of the loss by them; as all below, of the gradient alone
  int64_t of_pixels;     // that the statistics are of: P, or more where x is a part of its map
  const void* other;     // like x, or null: what is added to the gradient
  int64_t stride_other;  // elements
  void* dx;              // like x, samples side by side
};

MomentSizes statistics_sizes(Element element, const std::vector<StatisticsLayer>& layers, int64_t batch);

// The mean m and sqrt(variance + kDeviationEps) of every channel. One launch for every kDistsLayers (walk.cuh) layers.
cudaError_t launch_channel_statistics(Element element, const std::vector<StatisticsLayer>& layers,  // (L)
                                      int64_t batch,
                                      void* partial,       // (sizes.partial) Acc, scratch
                                      uint32_t* arrivals,  // (sizes.groups), zeros that the launch uses up
                                      cudaStream_t stream);

// dx = grad[n] / of_pixels * (slope of the mean + slope of the deviation * (x - mean) / deviation) + other. As many
// launches.
cudaError_t launch_channel_statistics_backward(Element element, const std::vector<StatisticsLayer>& layers,  // (L)
                                               int64_t batch,
                                               const void* grad,  // (N) Acc, or null for ones
                                               cudaStream_t stream);

}  // namespace perceptual_ops
