// LPIPS on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "../common/torch_cuda.h"
#include "arguments.h"
#include "lpips.h"

namespace perceptual_ops {
namespace {

// What a call asks for.
struct Asked {
  bool values, maps, by_features, by_targets;
};

// What is not wanted stays empty.
struct Result {
  std::optional<Tensor> loss, values;           // (N), (L, N)
  std::vector<Tensor> maps;                     // L x (N, 1, H, W)
  std::vector<Tensor> by_features, by_targets;  // L x (N, C, H, W)
};

// Upstream numbers: of the samples or of the pixels; none of them for ones.
struct Upstream {
  std::optional<Tensor> grad;                // (N)
  std::optional<std::vector<Tensor>> grads;  // L x (N, 1, H, W)
};

// All layers, each dense in the layout of its features; holds the copies, if any, alive.
struct DenseLayers {
  std::vector<Tensor> inputs;
  std::vector<LikeOutput> by_features, by_targets;
  std::vector<LpipsLayer> layers;

  DenseLayers(const std::vector<Tensor>& features, const std::vector<Tensor>& targets,
              const std::vector<Tensor>& channel_weights, const Upstream& upstream, const Asked& asked,
              Result& result) {
    for (size_t l = 0; l < features.size(); ++l) {
      const Layout layout = layout_of(features[l]);
      const Tensor x = dense_samples(features[l], layout), y = dense_samples(targets[l], layout);
      const Tensor weights = torch::stable::contiguous(channel_weights[l]);
      LpipsLayer layer{};
      layer.x = x.data_ptr();
      layer.y = y.data_ptr();
      layer.weights = weights.data_ptr();
      if (asked.by_features) layer.dx = by_features.emplace_back(features[l], layout).dense().data_ptr();
      if (asked.by_targets) layer.dy = by_targets.emplace_back(features[l], layout).dense().data_ptr();
      if (asked.maps) {
        result.maps.push_back(torch::stable::new_empty(x, {{x.size(0), 1, x.size(2), x.size(3)}}, accumulator_type(x)));
        layer.map = result.maps[l].data_ptr();
      }
      if (upstream.grads) {
        inputs.push_back(torch::stable::contiguous((*upstream.grads)[l]));
        layer.map_grad = inputs.back().data_ptr();
      }
      layer.channels = x.size(1);
      layer.pixels = x.size(2) * x.size(3);
      layer.stride_x = x.size(0) == 1 ? 0 : x.stride(0);
      layer.stride_y = y.size(0) == 1 ? 0 : y.stride(0);
      layer.layout = layout;
      layers.push_back(layer);
      inputs.insert(inputs.end(), {x, y, weights});
    }
  }
};

Result run(const std::vector<Tensor>& features,         // L x (N, C, H, W)
           const std::vector<Tensor>& targets,          // L x (N or 1, C, H, W)
           const std::vector<Tensor>& channel_weights,  // L x (C)
           double eps, bool eps_inside, const Upstream& upstream, const Asked& asked) {
  check_lpips(features, targets, channel_weights);
  const Tensor& first = features[0];
  if (upstream.grad) check_upstream(*upstream.grad, first);
  if (upstream.grads) check_pixel_upstream(*upstream.grads, features);
  const CudaScope cuda(first);
  const Element element = element_of(first, "features");
  const int64_t count = features.size(), batch = first.size(0);

  Result result;
  DenseLayers dense(features, targets, channel_weights, upstream, asked, result);
  std::optional<Tensor> partial, arrivals, grad;
  LpipsValues values{};
  if (asked.values) {
    const auto accumulators = [&](std::vector<int64_t> sizes) {
      return torch::stable::new_empty(first, sizes, accumulator_type(first));
    };
    result.loss = accumulators({batch});
    result.values = accumulators({count, batch});
    partial = accumulators({lpips_blocks(element, dense.layers, batch)});
    arrivals = torch::stable::new_zeros(first, {{count + 1, batch}}, ScalarType::Int);
    values = {partial->data_ptr(), static_cast<uint32_t*>(arrivals->data_ptr()), result.values->data_ptr(),
              result.loss->data_ptr()};
  }
  if (upstream.grad) grad = torch::stable::contiguous(*upstream.grad);
  // Without gradients, values or maps there is nothing to do.
  if (batch > 0 && (asked.values || asked.maps || asked.by_features || asked.by_targets)) {
    check_launch(launch_lpips(element, dense.layers, batch, eps, eps_inside, values, grad ? grad->data_ptr() : nullptr,
                              cuda.stream()),
                 "lpips");
  }
  for (LikeOutput& gradient : dense.by_features) result.by_features.push_back(gradient.finished());
  for (LikeOutput& gradient : dense.by_targets) result.by_targets.push_back(gradient.finished());
  return result;
}

}  // namespace

std::tuple<Tensor, Tensor> lpips_distance_cuda(const std::vector<Tensor> features,         // L x (N, C, H, W)
                                               const std::vector<Tensor> targets,          // L x (N or 1, C, H, W)
                                               const std::vector<Tensor> channel_weights,  // L x (C)
                                               double eps, bool eps_inside) {
  const Result result = run(features, targets, channel_weights, eps, eps_inside, {}, {true, false, false, false});
  return {*result.loss, *result.values};
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> lpips_distance_backward_cuda(
    const Tensor grad,                          // (N)
    const std::vector<Tensor> features,         // L x (N, C, H, W)
    const std::vector<Tensor> targets,          // L x (N or 1, C, H, W)
    const std::vector<Tensor> channel_weights,  // L x (C)
    double eps, bool eps_inside, bool by_features, bool by_targets) {
  const Result result = run(features, targets, channel_weights, eps, eps_inside, {grad, std::nullopt},
                            {false, false, by_features, by_targets});
  return {result.by_features, result.by_targets};
}

std::tuple<Tensor, Tensor, std::vector<Tensor>, std::vector<Tensor>> lpips_distance_with_gradient_cuda(
    const std::vector<Tensor> features,         // L x (N, C, H, W)
    const std::vector<Tensor> targets,          // L x (N or 1, C, H, W)
    const std::vector<Tensor> channel_weights,  // L x (C)
    double eps, bool eps_inside,
    const std::optional<Tensor> grad,  // (N)
    bool by_features, bool by_targets) {
  const Result result = run(features, targets, channel_weights, eps, eps_inside, {grad, std::nullopt},
                            {true, false, by_features, by_targets});
  return {*result.loss, *result.values, result.by_features, result.by_targets};
}

std::vector<Tensor> lpips_map_cuda(const std::vector<Tensor> features,         // L x (N, C, H, W)
                                   const std::vector<Tensor> targets,          // L x (N or 1, C, H, W)
                                   const std::vector<Tensor> channel_weights,  // L x (C)
                                   double eps, bool eps_inside) {
  return run(features, targets, channel_weights, eps, eps_inside, {}, {false, true, false, false}).maps;
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> lpips_map_backward_cuda(
    const std::vector<Tensor> grads,            // L x (N, 1, H, W)
    const std::vector<Tensor> features,         // L x (N, C, H, W)
    const std::vector<Tensor> targets,          // L x (N or 1, C, H, W)
    const std::vector<Tensor> channel_weights,  // L x (C)
    double eps, bool eps_inside, bool by_features, bool by_targets) {
  const Result result = run(features, targets, channel_weights, eps, eps_inside, {std::nullopt, grads},
                            {false, false, by_features, by_targets});
  return {result.by_features, result.by_targets};
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("lpips_distance", TORCH_BOX(&lpips_distance_cuda));
  m.impl("lpips_distance_backward", TORCH_BOX(&lpips_distance_backward_cuda));
  m.impl("lpips_distance_with_gradient", TORCH_BOX(&lpips_distance_with_gradient_cuda));
  m.impl("lpips_map", TORCH_BOX(&lpips_map_cuda));
  m.impl("lpips_map_backward", TORCH_BOX(&lpips_map_backward_cuda));
}

}  // namespace perceptual_ops
