// loss_head on CUDA: the Grams of all style layers in two launches, then every gradient. A layer with both terms is
// read once for its gradient, with which comes the value of its feature loss; layers with a feature loss alone have a
// launch of their own.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "../common/arguments.h"
#include "../feature_loss/feature_loss_cuda.h"
#include "../gram/gram_cuda.h"
#include "loss_head.h"

namespace perceptual_ops {
namespace {

// The content term of the layers: its distance, where its values go, and what the launches need.
struct ContentTerm {
  const std::vector<Tensor>& targets;  // K x (N or 1, C, H, W)
  const std::vector<double>& weights;  // (K)
  DistanceKind kind;
  double parameter;
  Tensor values;  // (K, N)

  void* row(int64_t k) const {
    return static_cast<char*>(values.data_ptr()) + k * values.size(1) * values.element_size();
  }
};

// Gradients of the layers that have a style term, in their order, and the content values of those that have both.
std::vector<Tensor> style_gradients(const std::vector<Tensor>& features,  // L x (N, C, H, W)
                                    const std::vector<HeadLayer>& head, const std::vector<int64_t>& style_layers,
                                    const std::vector<Tensor>& slopes,  // S x (N, C, C)
                                    const ContentTerm& content,
                                    const Tensor* grad,  // (N)
                                    const CudaScope& cuda) {
  const Tensor& first = features[0];
  const Slopes matrices(slopes, first, cuda);
  std::vector<GradientTensors> tensors;
  std::vector<Tensor> targets;  // holds copies alive
  std::vector<GradientOutput> outputs;
  for (size_t s = 0; s < style_layers.size(); ++s) {
    const Tensor& x = features[style_layers[s]];
    const int64_t k = head[style_layers[s]].content;
    tensors.emplace_back(x);
    GradientOutput output = tensors[s].output(matrices, s);
    if (k >= 0) {
      const double scale = content.kind.scale(x.size(1) * x.size(2) * x.size(3));
      targets.push_back(served_as(content.targets[k], tensors[s].layout()));
      output.target = {targets.back().data_ptr(), *feature_map(targets.back())};
      if (targets.back().size(0) == 1) output.target.map.stride_n = 0;
      output.content_slope_scale = content.weights[k] * scale;
      output.content_value_scale = scale;
      output.values = content.row(k);
    }
    outputs.push_back(output);
  }
  const GradientWorkspace workspace = plan_gradient(outputs);
  const Tensor slots = torch::stable::new_empty(first, {{workspace.slots}}, accumulator_type(first));
  const Tensor arrivals = torch::stable::new_zeros(first, {{workspace.arrivals}}, ScalarType::Int);
  check_launch(launch_gram_gradient(element_of(first, "features"), outputs, content.kind.distance, content.parameter,
                                    grad == nullptr ? nullptr : grad->data_ptr(), slots.data_ptr(), arrivals.data_ptr(),
                                    cuda.stream()),
               "gram_gradient");
  std::vector<Tensor> gradients;
  for (GradientTensors& gradient : tensors) gradients.push_back(gradient.result());
  return gradients;
}

// Gradients of the layers that have a content term alone, in their order, and their values.
std::vector<Tensor> content_gradients(const std::vector<Tensor>& features,  // L x (N, C, H, W)
                                      const std::vector<HeadLayer>& head, const ContentTerm& content,
                                      const std::string& distance, const std::optional<Tensor>& grad) {
  std::vector<Tensor> alone, targets;
  std::vector<double> weights;
  std::vector<int64_t> rows;
  for (size_t l = 0; l < features.size(); ++l) {
    if (head[l].style >= 0) continue;
    alone.push_back(features[l]);
    targets.push_back(content.targets[head[l].content]);
    weights.push_back(content.weights[head[l].content]);
    rows.push_back(head[l].content);
  }
  if (alone.empty()) return {};
  const auto [loss, values, gradients] =
      feature_loss_with_gradient_cuda(alone, targets, weights, distance, content.parameter, grad);
  for (size_t i = 0; i < rows.size(); ++i) {
    Tensor row = torch::stable::select(content.values, 0, rows[i]);
    torch::stable::copy_(row, torch::stable::select(values, 0, i));
  }
  return gradients;
}

}  // namespace

std::tuple<Tensor, Tensor, std::vector<Tensor>> loss_head_cuda(
    const std::vector<Tensor> features,       // L x (N, C, H, W)
    const std::vector<int64_t> style_layers,  // (S)
    const std::vector<Tensor> target_grams,   // S x (N or 1, C, C)
    const std::vector<double> style_weights,  // (S)
    const std::string normalize, const std::string style_distance, double style_parameter,
    const std::vector<int64_t> content_layers,  // (K)
    const std::vector<Tensor> targets,          // K x (N or 1, C, H, W)
    const std::vector<double> content_weights,  // (K)
    const std::string content_distance, double content_parameter,
    const std::optional<Tensor> grad) {  // (N)
  const std::vector<HeadLayer> head =
      checked_head(features, style_layers, target_grams, style_weights, content_layers, targets, content_weights, grad);
  const CudaScope cuda(features[0]);
  const int64_t batch = features[0].size(0), styles = style_layers.size(), contents = content_layers.size();
  const ScalarType type = accumulator_type(features[0]);
  const ContentTerm content{targets, content_weights, distance_kind(content_distance), content_parameter,
                            torch::stable::new_empty(features[0], {{contents, batch}}, type)};
  std::optional<Tensor> upstream;
  if (grad) upstream = torch::stable::contiguous(*grad);

  Tensor style = torch::stable::new_empty(features[0], {{styles, batch}}, type);
  std::vector<Tensor> of_style, of_content, gradients;
  if (styles > 0) {
    std::vector<Tensor> slopes, loss;
    std::tie(std::ignore, style, slopes) = style_values(layers_at(features, style_layers), target_grams, style_weights,
                                                        normalize, style_distance, style_parameter, cuda);
    if (batch > 0) {
      of_style = style_gradients(features, head, style_layers, slopes, content, upstream ? &*upstream : nullptr, cuda);
    } else {
      for (const int64_t l : style_layers) of_style.push_back(torch::stable::empty_like(features[l]));
    }
  }
  of_content = content_gradients(features, head, content, content_distance, grad);
  size_t next = 0;
  for (size_t l = 0; l < features.size(); ++l) {
    gradients.push_back(head[l].style >= 0 ? of_style[head[l].style] : of_content[next++]);
  }
  return {style, content.values, gradients};
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) { m.impl("loss_head", TORCH_BOX(&loss_head_cuda)); }

}  // namespace perceptual_ops
