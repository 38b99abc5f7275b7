// gram_matrix and style_loss on the CPU: check, multiply, finish, register.
#include <string>

#include "../common/layers.h"
#include "products_cpu.h"
#include "slopes_cpu.h"

namespace perceptual_ops {
Tensor gram_matrix_cpu(const Tensor x,  // (N, C, H, W)
                       const Name normalize) {
  check_map(x, "x");
  const double scale = gram_scale(normalize, x.size(1), x.size(2) * x.size(3));
  Tensor gram = gram_products(x);
  scale_samples(gram, std::vector<double>(x.size(0), scale), gram);
  return gram;  // (N, C, C)
}

Tensor gram_matrix_backward_cpu(const Tensor grad,  // (N, C, C)
                                const Tensor x,     // (N, C, H, W)
                                const Name normalize) {
  check_map(x, "x");
  check(grad.dim() == 3 && grad.size(0) == x.size(0) && grad.size(1) == x.size(1) && grad.size(2) == x.size(1),
        "grad: expected (", x.size(0), ", ", x.size(1), ", ", x.size(1), ")");
  check(grad.scalar_type() == accumulator_type(x), "grad: expected float32 (float64 for float64 x)");
  return gram_gradient(symmetrised(grad, gram_scale(normalize, x.size(1), x.size(2) * x.size(3))), x, std::nullopt);
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> style_loss_cpu(
    const std::vector<Tensor> features,      // L x (N, C, H, W)
    const std::vector<Tensor> target_grams,  // L x (N or 1, C, C)
    const std::vector<double> weights,       // (L)
    const Name normalize, const Name distance, double parameter) {
  check_features(features, weights);
  check_gram_pairs(features, target_grams, "target_grams");
  const DistanceKind kind = distance_kind(distance);
  const int64_t layers = features.size(), batch = features[0].size(0);
  std::vector<double> values(layers * batch, 0.0);
  std::vector<Tensor> slopes;
  for (int64_t l = 0; l < layers; ++l) {
    const Tensor& x = features[l];
    slopes.push_back(gram_products(x));
    finish_grams(slopes.back(), target_grams[l], gram_scale(normalize, x.size(1), x.size(2) * x.size(3)), kind,
                 parameter, std::vector<double>(batch, weights[l]), &values[l * batch]);
  }
  auto [loss, per_layer] = weighted_losses(features[0], values, weights);
  return {loss, per_layer, slopes};
}

std::vector<Tensor> style_loss_backward_cpu(const std::optional<Tensor> grad,                   // (N)
                                            const std::vector<Tensor> features,                 // L x (N, C, H, W)
                                            const std::vector<Tensor> slopes,                   // L x (N, C, C)
                                            const std::vector<std::optional<Tensor>> others) {  // L x (N, C, H, W)
  check_features(features);
  check_slopes(features, slopes);
  check_other_gradients(features, others);
  if (grad) check_upstream(*grad, features[0]);
  const std::vector<double> upstream = grad ? to_doubles(*grad) : std::vector<double>();
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < features.size(); ++l) {
    Tensor slope = torch::stable::contiguous(slopes[l]);
    if (grad) {
      const Tensor scaled = torch::stable::empty_like(slope);
      scale_samples(slope, upstream, scaled);
      slope = scaled;
    }
    gradients.push_back(gram_gradient(slope, features[l], others[l]));
  }
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("gram_matrix", TORCH_BOX(&gram_matrix_cpu));
  m.impl("gram_matrix_backward", TORCH_BOX(&gram_matrix_backward_cpu));
  m.impl("style_loss", TORCH_BOX(&style_loss_cpu));
  m.impl("style_loss_backward", TORCH_BOX(&style_loss_backward_cpu));
}

}  // namespace perceptual_ops
