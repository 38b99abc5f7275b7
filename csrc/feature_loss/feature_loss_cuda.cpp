// feature_loss on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "../common/arguments.h"
#include "../common/layers.h"
#include "../common/torch_cuda.h"
#include "feature_loss.h"

namespace perceptual_ops {
namespace {

// Features and targets of one layer, dense in one layout; holds the copies, if any, alive.
struct DensePair {
  Tensor x, y;
  SamplePair samples;
};

DensePair dense_pair(const Tensor& features, const Tensor& targets, Layout layout) {
  DensePair pair{dense_samples(features, layout), dense_samples(targets, layout), {}};
  pair.samples = {pair.x.data_ptr(), pair.y.data_ptr(),
                  pair.x.size(0),    pair.x.size(1) * pair.x.size(2) * pair.x.size(3),
                  pair.x.stride(0),  pair.y.size(0) == 1 ? 0 : pair.y.stride(0)};
  return pair;
}

}  // namespace

std::tuple<Tensor, Tensor> feature_loss_cuda(const std::vector<Tensor> features,  // L x (N, C, H, W)
                                             const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
                                             const std::vector<double> weights,   // (L)
                                             const std::string distance, double parameter) {
  check_feature_pairs(features, targets, weights);
  const CudaScope cuda(features[0]);
  const DistanceKind kind = distance_kind(distance);
  const int64_t layers = features.size(), batch = features[0].size(0);
  const Tensor loss = torch::stable::new_zeros(features[0], {{batch}}, accumulator_type(features[0]));
  const Tensor values = torch::stable::new_zeros(features[0], {{layers, batch}}, accumulator_type(features[0]));
  for (int64_t l = 0; l < layers; ++l) {
    if (features[l].numel() == 0) continue;
    const DensePair pair = dense_pair(features[l], targets[l], layout_of(features[l]));
    const Tensor partial = torch::stable::new_empty(features[l], {{batch, feature_loss_blocks(pair.samples.size)}},
                                                    accumulator_type(features[l]));
    check_launch(launch_feature_loss(element_of(pair.x, "features"), pair.samples, kind.distance, parameter,
                                     kind.scale(pair.samples.size), weights[l], l == 0, partial.data_ptr(),
                                     static_cast<char*>(values.data_ptr()) + l * batch * values.element_size(),
                                     loss.data_ptr(), cuda.stream()),
                 "feature_loss");
  }
  return {loss, values};
}

std::vector<Tensor> feature_loss_backward_cuda(const Tensor grad,                   // (N)
                                               const std::vector<Tensor> features,  // L x (N, C, H, W)
                                               const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
                                               const std::vector<double> weights,   // (L)
                                               const std::string distance, double parameter) {
  check_feature_pairs(features, targets, weights);
  check_upstream(grad, features[0]);
  const CudaScope cuda(features[0]);
  const DistanceKind kind = distance_kind(distance);
  const Tensor upstream = torch::stable::contiguous(grad);
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < features.size(); ++l) {
    const Layout layout = layout_of(features[l]);
    gradients.push_back(filled_like(features[l], layout, [&](Tensor& out) {
      if (features[l].numel() == 0) return;
      const DensePair pair = dense_pair(features[l], targets[l], layout);
      check_launch(launch_feature_loss_gradient(element_of(pair.x, "features"), pair.samples, kind.distance, parameter,
                                                weights[l] * kind.scale(pair.samples.size), upstream.data_ptr(),
                                                out.data_ptr(), cuda.stream()),
                   "feature_loss_gradient");
    }));
  }
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("feature_loss", TORCH_BOX(&feature_loss_cuda));
  m.impl("feature_loss_backward", TORCH_BOX(&feature_loss_backward_cuda));
}

}  // namespace perceptual_ops
