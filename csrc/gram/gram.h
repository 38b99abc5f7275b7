// Launchers of the Gram kernels, each for all layers at once. Plain pointers, shapes in comments; no torch. `Acc` is
// fp32, or fp64 for fp64 maps. Layers beyond what one launch can hold go into further launches.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "../common/distance.h"
#include "../common/element.h"
#include "../common/feature_map.h"
#include "plan.h"

namespace perceptual_ops {

struct MapPointer {
  const void* data;  // (N, C, P), strides of `map`; null: none
  FeatureMap map;
};

// Workspace between the stream-K sums of some layers and their reduction.
struct GramWorkspace {
  std::vector<StageList> launches;  // of kMaxLayers layers each; none where 32 bits cannot count their stages
  std::vector<int64_t> first;       // of each layer's partial sums
  int64_t partial;                  // partial sums of fragments, Acc
  int64_t slots;                    // distances of the finish's blocks, Acc
  int64_t arrivals;                 // counters of those blocks, uint32
};
GramWorkspace plan_gram(Element element, const std::vector<FeatureMap>& layers);

// Stream-K partial sums of X X^T.
cudaError_t launch_gram_sums(Element element, const std::vector<MapPointer>& layers, const GramWorkspace& workspace,
                             void* partial,   // (workspace.partial) Acc
                             void* arrivals,  // (workspace.arrivals) uint32
                             cudaStream_t stream);

// gram = scale * X X^T
struct GramOutput {
  void* gram;  // (N, C, C) Acc
  double scale;
};
cudaError_t launch_gram_finish(Element element, const std::vector<MapPointer>& layers, const GramWorkspace& workspace,
                               const std::vector<GramOutput>& outputs,
                               const void* partial,  // (workspace.partial) Acc
                               cudaStream_t stream);

// values[l, n] = value_scale * sum of d(G - target), loss[n] = sum over l of weight * values[l, n], and
// S = slope_scale * (D + D^T) with D = d'(G - target) and G = scale * X X^T.
struct StyleOutput {
  void* slopes;        // (N, C, C) Acc
  const void* target;  // (N or 1, C, C) Acc
  int64_t target_batch;
  double scale, slope_scale, value_scale, weight;
};
cudaError_t launch_style_finish(Element element, const std::vector<MapPointer>& layers, const GramWorkspace& workspace,
                                const std::vector<StyleOutput>& outputs, Distance distance, double parameter,
                                const void* partial,  // (workspace.partial) Acc
                                void* slots,          // (workspace.slots) Acc, scratch
                                void* arrivals,       // (workspace.arrivals) uint32, set by launch_gram_sums
                                void* values,         // (L, N) Acc
                                void* loss,           // (N) Acc
                                cudaStream_t stream);

// symmetric = scale * (D + D^T)
cudaError_t launch_symmetrise(Element element, int64_t batch, int64_t channels,
                              const void* slopes,  // (N, C, C) Acc
                              double scale,
                              void* symmetric,  // (N, C, C) Acc
                              cudaStream_t stream);

// S as the gradient of 16-bit maps reads it: in their dtype, each row scaled by a power of two.
inline bool needs_narrow_slopes(Element element) {
  return element == Element::kFloat16 || element == Element::kBFloat16;
}
inline int64_t narrow_pitch(int64_t channels) { return ceil_div(channels, 8) * 8; }
struct NarrowSlopes {
  const void* slopes;  // (N, C, C) fp32
  int64_t batch, channels;
  void* narrow;  // (N, C, narrow_pitch(C)), 16 bits
  void* scale;   // (N, C) fp32, which undoes the power of two
};
cudaError_t launch_narrow(Element element, const std::vector<NarrowSlopes>& layers, cudaStream_t stream);

// dx = grad[n] * S X + other
struct GradientOutput {
  MapPointer x;
  void* dx;  // (N, C, P), strides of dx_map, its layout that of x
  FeatureMap dx_map;
  MapPointer other;    // its layout that of x
  const void* slopes;  // (N, C, C) Acc, or as launch_narrow made them
  const void* scale;   // (N, C) as launch_narrow made it; null for fp32 and fp64
};
cudaError_t launch_gram_gradient(Element element, const std::vector<GradientOutput>& layers,
                                 const void* grad,  // (N) Acc, or null for ones
                                 cudaStream_t stream);

}  // namespace perceptual_ops
