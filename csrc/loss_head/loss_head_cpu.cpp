// loss_head on the CPU: layer by layer, so that the gradient finds in the cache what the value has read.
#include <string>

#include "../feature_loss/feature_loss_cpu.h"
#include "../gram/products_cpu.h"
#include "../gram/slopes_cpu.h"
#include "loss_head.h"

namespace perceptual_ops {

std::tuple<Tensor, Tensor, std::vector<Tensor>> loss_head_cpu(
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
  const DistanceKind style_kind = distance_kind(style_distance), content_kind = distance_kind(content_distance);
  const int64_t batch = features[0].size(0), styles = style_layers.size(), contents = content_layers.size();
  const std::vector<double> upstream = grad ? to_doubles(*grad) : std::vector<double>(batch, 1.0);
  std::vector<double> style(styles * batch, 0.0), content(contents * batch, 0.0);
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < features.size(); ++l) {
    const Tensor& x = features[l];
    const auto [s, k] = head[l];
    std::vector<double> content_factors;
    if (k >= 0) content_factors = weighted_upstream(content_weights[k], upstream);
    if (s < 0) {
      gradients.push_back(
          feature_gradient(x, targets[k], content_kind, content_parameter, content_factors, &content[k * batch]));
      continue;
    }
    if (k >= 0) feature_values(x, targets[k], content_kind, content_parameter, &content[k * batch]);
    const Tensor slopes = gram_products(x);
    finish_grams(slopes, target_grams[s], gram_scale(normalize, x.size(1), x.size(2) * x.size(3)), style_kind,
                 style_parameter, weighted_upstream(style_weights[s], upstream), &style[s * batch]);
    GradientTerm term;
    if (k >= 0) term = feature_gradient_term(x, targets[k], content_kind, content_parameter, content_factors);
    gradients.push_back(gram_gradient(slopes, x, term));
  }
  return {from_doubles(features[0], style, {styles, batch}), from_doubles(features[0], content, {contents, batch}),
          gradients};
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) { m.impl("loss_head", TORCH_BOX(&loss_head_cpu)); }

}  // namespace perceptual_ops
