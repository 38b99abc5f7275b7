// feature_loss on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../common/arguments.h"
#include "../common/layers.h"
#include "../common/torch_cuda.h"
#include "feature_loss.h"

namespace perceptual_ops {
namespace {

// Features, targets and gradients of all layers, each dense in the layout of its features; holds the copies, if any,
// alive.
struct DenseLayers {
  std::vector<Tensor> maps;
  std::vector<LikeOutput> gradients;
  std::vector<FeatureLayer> layers;

  DenseLayers(const std::vector<Tensor>& features, const std::vector<Tensor>& targets,
              const std::vector<double>& weights, DistanceKind kind, Wanted wanted) {
    for (size_t l = 0; l < features.size(); ++l) {
      const Layout layout = layout_of(features[l]);
      const Tensor x = dense_samples(features[l], layout), y = dense_samples(targets[l], layout);
      if (wanted != Wanted::kValue) gradients.emplace_back(features[l], layout);
      const int64_t size = x.size(1) * x.size(2) * x.size(3);
      layers.push_back({x.data_ptr(), y.data_ptr(),
                        wanted == Wanted::kValue ? nullptr : gradients[l].dense().data_ptr(), size, x.stride(0),
                        y.size(0) == 1 ? 0 : y.stride(0), kind.scale(size), weights[l]});
      maps.insert(maps.end(), {x, y});
    }
  }
};

// Values, gradients or both; what is not wanted stays empty.
struct Result {
  std::optional<Tensor> loss, values;  // (N), (L, N)
  std::vector<Tensor> gradients;       // L x (N, C, H, W)
};

Result run(const std::vector<Tensor>& features,  // L x (N, C, H, W)
           const std::vector<Tensor>& targets,   // L x (N or 1, C, H, W)
           const std::vector<double>& weights,   // (L)
           const std::string& distance, double parameter,
           const std::optional<Tensor>& grad,  // (N)
           Wanted wanted) {
  check_feature_pairs(features, targets, weights);
  if (grad) check_upstream(*grad, features[0]);
  const Tensor& first = features[0];
  const CudaScope cuda(first);
  const DistanceKind kind = distance_kind(distance);
  const Element element = element_of(first, "features");
  const int64_t count = features.size(), batch = first.size(0);
  DenseLayers dense(features, targets, weights, kind, wanted);

  Result result;
  std::optional<Tensor> partial, arrivals, upstream;
  FeatureValues values{};
  if (wanted != Wanted::kGradient) {
    const auto accumulators = [&](std::vector<int64_t> sizes) {
      return torch::stable::new_empty(first, sizes, accumulator_type(first));
    };
    result.loss = accumulators({batch});
    result.values = accumulators({count, batch});
    partial = accumulators({feature_loss_blocks(element, dense.layers, batch)});
    arrivals = torch::stable::new_zeros(first, {{count + 1, batch}}, ScalarType::Int);
    values = {partial->data_ptr(), static_cast<uint32_t*>(arrivals->data_ptr()), result.values->data_ptr(),
              result.loss->data_ptr()};
  }
  if (grad) upstream = torch::stable::contiguous(*grad);
  if (batch > 0) {
    check_launch(launch_feature_loss(element, wanted, dense.layers, batch, kind.distance, parameter, values,
                                     upstream ? upstream->data_ptr() : nullptr, cuda.stream()),
                 "feature_loss");
  }
  for (LikeOutput& gradient : dense.gradients) result.gradients.push_back(gradient.finished());
  return result;
}

}  // namespace

std::tuple<Tensor, Tensor> feature_loss_cuda(const std::vector<Tensor> features,  // L x (N, C, H, W)
                                             const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
                                             const std::vector<double> weights,   // (L)
                                             const Name distance, double parameter) {
  const Result result = run(features, targets, weights, distance, parameter, std::nullopt, Wanted::kValue);
  return {*result.loss, *result.values};
}

std::vector<Tensor> feature_loss_backward_cuda(const Tensor grad,                   // (N)
                                               const std::vector<Tensor> features,  // L x (N, C, H, W)
                                               const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
                                               const std::vector<double> weights,   // (L)
                                               const Name distance, double parameter) {
  return run(features, targets, weights, distance, parameter, grad, Wanted::kGradient).gradients;
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> feature_loss_with_gradient_cuda(
    const std::vector<Tensor> features,  // L x (N, C, H, W)
    const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
    const std::vector<double> weights,   // (L)
    const Name distance, double parameter,
    const std::optional<Tensor> grad) {  // (N)
  const Result result = run(features, targets, weights, distance, parameter, grad, Wanted::kBoth);
  return {*result.loss, *result.values, result.gradients};
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("feature_loss", TORCH_BOX(&feature_loss_cuda));
  m.impl("feature_loss_backward", TORCH_BOX(&feature_loss_backward_cuda));
  m.impl("feature_loss_with_gradient", TORCH_BOX(&feature_loss_with_gradient_cuda));
}

}  // namespace perceptual_ops
