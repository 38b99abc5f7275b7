// gram_matrix and style_loss on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "../common/arguments.h"
#include "../common/layers.h"
#include "../common/torch_cuda.h"
#include "gram.h"

namespace perceptual_ops {
namespace {

// scale * X X^T: (N, C, H, W) -> (N, C, C)
Tensor scaled_gram(const Tensor& features, double scale, const CudaScope& cuda) {
  const Tensor x = served(features);
  const FeatureMap map = *feature_map(x);
  Tensor gram = torch::stable::new_empty(x, {{map.batch, map.channels, map.channels}}, accumulator_type(x));
  if (map.batch * map.sample_size() == 0) return torch::stable::zero_(gram);
  const Tensor partial =
      torch::stable::new_empty(x, {{gram_splits(map), map.batch, map.channels, map.channels}}, accumulator_type(x));
  check_launch(launch_gram(element_of(x, "features"), map, x.data_ptr(), partial.data_ptr(), gram.data_ptr(), scale,
                           cuda.stream()),
               "gram");
  return gram;
}

// grad[n] * S[n] X[n]: -> (N, C, H, W) like the features
Tensor scaled_gradient(const Tensor& symmetric, const Tensor* grad, const Tensor& features, const CudaScope& cuda) {
  const Tensor x = served(features);
  const FeatureMap map = *feature_map(x);
  return filled_like(features, map.layout(), [&](Tensor& out) {
    if (map.batch * map.sample_size() == 0) return;
    check_launch(launch_gram_gradient(element_of(x, "features"), map, symmetric.data_ptr(),
                                      grad == nullptr ? nullptr : grad->data_ptr(), x.data_ptr(), *feature_map(out),
                                      out.data_ptr(), cuda.stream()),
                 "gram_gradient");
  });
}

}  // namespace

Tensor gram_matrix_cuda(const Tensor x,  // (N, C, H, W)
                        const std::string normalize) {
  check_map(x, "x");
  const CudaScope cuda(x);
  return scaled_gram(x, gram_scale(normalize, x.size(1), x.size(2) * x.size(3)), cuda);  // (N, C, C)
}

Tensor gram_matrix_backward_cuda(const Tensor grad,  // (N, C, C)
                                 const Tensor x,     // (N, C, H, W)
                                 const std::string normalize) {
  check_map(x, "x");
  check(grad.dim() == 3 && grad.size(0) == x.size(0) && grad.size(1) == x.size(1) && grad.size(2) == x.size(1),
        "grad: expected (", x.size(0), ", ", x.size(1), ", ", x.size(1), ")");
  check(grad.scalar_type() == accumulator_type(x) && grad.device() == x.device(),
        "grad: expected float32 (float64 for float64 x) on x's device");
  const CudaScope cuda(x);
  const Tensor slopes = torch::stable::contiguous(grad);
  const Tensor symmetric = torch::stable::empty_like(slopes);
  if (slopes.numel() > 0) {
    check_launch(
        launch_symmetrise(element_of(x, "x"), x.size(0), x.size(1), slopes.data_ptr(),
                          gram_scale(normalize, x.size(1), x.size(2) * x.size(3)), symmetric.data_ptr(), cuda.stream()),
        "symmetrise");
  }
  return scaled_gradient(symmetric, nullptr, x, cuda);
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> style_loss_cuda(
    const std::vector<Tensor> features,      // L x (N, C, H, W)
    const std::vector<Tensor> target_grams,  // L x (N or 1, C, C)
    const std::vector<double> weights,       // (L)
    const std::string normalize, const std::string distance, double parameter) {
  check_features(features, weights);
  check_gram_pairs(features, target_grams);
  const CudaScope cuda(features[0]);
  const DistanceKind kind = distance_kind(distance);
  const int64_t layers = features.size(), batch = features[0].size(0);
  const Tensor loss = torch::stable::new_zeros(features[0], {{batch}}, accumulator_type(features[0]));
  const Tensor values = torch::stable::new_empty(features[0], {{layers, batch}}, accumulator_type(features[0]));
  std::vector<Tensor> slopes;
  for (int64_t l = 0; l < layers; ++l) {
    const Tensor& x = features[l];
    const int64_t channels = x.size(1), area = channels * channels;
    const double scale = gram_scale(normalize, channels, x.size(2) * x.size(3));
    const Tensor gram = scaled_gram(x, scale, cuda);
    const Tensor target = torch::stable::contiguous(target_grams[l]);
    slopes.push_back(torch::stable::empty_like(gram));
    if (gram.numel() == 0) continue;
    const StyleDistance style{kind.distance, parameter, kind.scale(area), weights[l] * kind.scale(area) * scale,
                              weights[l],    l == 0};
    check_launch(launch_style_distance(element_of(x, "features"), batch, channels, target.size(0), gram.data_ptr(),
                                       target.data_ptr(), style, slopes.back().data_ptr(),
                                       static_cast<char*>(values.data_ptr()) + l * batch * values.element_size(),
                                       loss.data_ptr(), cuda.stream()),
                 "style_distance");
  }
  return {loss, values, slopes};
}

std::vector<Tensor> style_loss_backward_cuda(const Tensor grad,                   // (N)
                                             const std::vector<Tensor> features,  // L x (N, C, H, W)
                                             const std::vector<Tensor> slopes) {  // L x (N, C, C)
  check_features(features, std::vector<double>(features.size()));
  check_gram_pairs(features, slopes);
  check_upstream(grad, features[0]);
  const CudaScope cuda(features[0]);
  const Tensor upstream = torch::stable::contiguous(grad);
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < features.size(); ++l) {
    gradients.push_back(scaled_gradient(torch::stable::contiguous(slopes[l]), &upstream, features[l], cuda));
  }
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("gram_matrix", TORCH_BOX(&gram_matrix_cuda));
  m.impl("gram_matrix_backward", TORCH_BOX(&gram_matrix_backward_cuda));
  m.impl("style_loss", TORCH_BOX(&style_loss_cuda));
  m.impl("style_loss_backward", TORCH_BOX(&style_loss_backward_cuda));
}

}  // namespace perceptual_ops
