// DISTS on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "../common/torch_cuda.h"
#include "arguments.h"
#include "dists.h"

namespace perceptual_ops {
namespace {

// The layers as the launchers read them, each dense in the layout of its features; holds the copies, if any, alive.
// Statistics and gradients are for the operators to fill in.
struct DenseLayers {
  std::vector<Tensor> tensors;
  std::vector<DistsLayer> layers;

  DenseLayers(const std::vector<Tensor>& features, const std::vector<Tensor>& targets, const std::vector<Tensor>& alpha,
              const std::vector<Tensor>& beta) {
    for (size_t l = 0; l < features.size(); ++l) {
      const Layout layout = layout_of(features[l]);
      const Tensor x = dense_samples(features[l], layout), y = dense_samples(targets[l], layout);
      const Tensor of_means = torch::stable::contiguous(alpha[l]), of_structures = torch::stable::contiguous(beta[l]);
      layers.push_back({layout, x.size(1), x.size(2) * x.size(3), x.data_ptr(), y.data_ptr(), x.stride(0),
                        y.size(0) == 1 ? 0 : y.stride(0), of_means.data_ptr(), of_structures.data_ptr(), nullptr,
                        nullptr, nullptr});
      tensors.insert(tensors.end(), {x, y, of_means, of_structures});
    }
  }
};

// A new tensor like each layer's features, or none.
std::vector<LikeOutput> gradients_like(const std::vector<Tensor>& features,  // L x (N, C, H, W)
                                       bool wanted) {
  std::vector<LikeOutput> gradients;
  for (const Tensor& x : features) {
    if (wanted) gradients.emplace_back(x, layout_of(x));
  }
  return gradients;
}

std::vector<Tensor> finished(std::vector<LikeOutput>& gradients) {
  std::vector<Tensor> tensors;
  for (LikeOutput& gradient : gradients) tensors.push_back(gradient.finished());
  return tensors;
}

}  // namespace

std::tuple<Tensor, Tensor, std::vector<Tensor>> dists_distance_cuda(
    const std::vector<Tensor> features,  // L x (N, C, H, W)
    const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
    const std::vector<Tensor> alpha,     // L x (C)
    const std::vector<Tensor> beta) {    // L x (C)
  check_dists(features, targets, alpha, beta);
  const Tensor& first = features[0];
  const CudaScope cuda(first);
  const Element element = element_of(first, "features");
  const int64_t count = features.size(), batch = first.size(0);
  const auto accumulators = [&](std::vector<int64_t> sizes) {
    return torch::stable::new_empty(first, sizes, accumulator_type(first));
  };
  DenseLayers dense(features, targets, alpha, beta);
  std::vector<Tensor> statistics;
  for (DistsLayer& layer : dense.layers) {
    statistics.push_back(accumulators({batch, kDistsStatistics, layer.channels}));
    layer.statistics = statistics.back().data_ptr();
  }
  const Tensor loss = accumulators({batch}), values = accumulators({count, batch});
  if (batch > 0) {
    const MomentSizes sizes = dists_sizes(element, dense.layers, batch);
    const Tensor partial = accumulators({sizes.partial}), of_groups = accumulators({sizes.groups});
    const Tensor arrivals = torch::stable::new_zeros(first, {{batch + sizes.groups}}, ScalarType::Int);
    check_launch(launch_dists(element, dense.layers, batch,
                              {partial.data_ptr(), of_groups.data_ptr(), static_cast<uint32_t*>(arrivals.data_ptr()),
                               values.data_ptr(), loss.data_ptr()},
                              cuda.stream()),
                 "dists_distance");
  }
  return {loss, values, statistics};  // (N), (L, N), L x (N, 6, C)
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> dists_distance_backward_cuda(
    const Tensor grad,                     // (N)
    const std::vector<Tensor> features,    // L x (N, C, H, W)
    const std::vector<Tensor> targets,     // L x (N or 1, C, H, W)
    const std::vector<Tensor> alpha,       // L x (C)
    const std::vector<Tensor> beta,        // L x (C)
    const std::vector<Tensor> statistics,  // L x (N, 6, C)
    bool by_features, bool by_targets) {
  check_dists(features, targets, alpha, beta);
  check_upstream(grad, features[0]);
  check_statistics(statistics, features, kDistsStatistics, "statistics");
  const Tensor& first = features[0];
  const CudaScope cuda(first);
  const Element element = element_of(first, "features");
  DenseLayers dense(features, targets, alpha, beta);
  std::vector<LikeOutput> of_features = gradients_like(features, by_features);
  std::vector<LikeOutput> of_targets = gradients_like(features, by_targets);
  for (size_t l = 0; l < features.size(); ++l) {
    dense.tensors.push_back(torch::stable::contiguous(statistics[l]));
    dense.layers[l].statistics = dense.tensors.back().data_ptr();
    if (by_features) dense.layers[l].dx = of_features[l].dense().data_ptr();
    if (by_targets) dense.layers[l].dy = of_targets[l].dense().data_ptr();
  }
  const Tensor upstream = torch::stable::contiguous(grad);
  if (first.size(0) > 0 && (by_features || by_targets)) {
    check_launch(launch_dists_backward(element, dense.layers, first.size(0), upstream.data_ptr(), cuda.stream()),
                 "dists_distance_backward");
  }
  return {finished(of_features), finished(of_targets)};  // L x (N, C, H, W) each, or no layers
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("dists_distance", TORCH_BOX(&dists_distance_cuda));
  m.impl("dists_distance_backward", TORCH_BOX(&dists_distance_backward_cuda));
}

}  // namespace perceptual_ops
