// gram_matrix and style_loss on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../common/arguments.h"
#include "../common/layers.h"
#include "../common/torch_cuda.h"
#include "gram.h"

namespace perceptual_ops {
namespace {

Tensor scratch(const Tensor& like, int64_t count, ScalarType type) {
  return torch::stable::new_empty(like, {{count}}, type);
}

// Launches the stream-K sums of several layers on construction; owns the workspace of their reduction.
class GramSums {
 public:
  GramSums(const std::vector<Tensor>& features,  // L x (N, C, H, W), N > 0
           const CudaScope& cuda);

  void finish_grams(const std::vector<GramOutput>& outputs, const CudaScope& cuda) const;
  void finish_styles(const std::vector<StyleOutput>& outputs, Distance distance, double parameter,
                     const Tensor& values,  // (L, N)
                     const Tensor& loss,    // (N)
                     const CudaScope& cuda) const;

 private:
  Element element_;
  std::vector<Tensor> maps_;
  std::vector<MapPointer> layers_;
  GramWorkspace workspace_;
  Tensor partial_, slots_, arrivals_;
};

// Launches the preparation of S for the gradient of several layers on construction.
class Slopes {
 public:
  Slopes(const std::vector<Tensor>& slopes,  // L x (N, C, C), symmetric
         const Tensor& x,                    // one of the maps, for their dtype
         const CudaScope& cuda);

  const void* matrix(size_t layer) const { return matrices_[layer].data_ptr(); }
  const void* scale(size_t layer) const { return scales_[layer] ? scales_[layer]->data_ptr() : nullptr; }

 private:
  std::vector<Tensor> wide_;  // what the launch reads
  std::vector<Tensor> matrices_;
  std::vector<std::optional<Tensor>> scales_;
};

// One layer's map as it is read, its gradient as it is written, and what is added to that.
class GradientTensors {
 public:
  GradientTensors(const Tensor& x,                     // (N, C, H, W)
                  const std::optional<Tensor>& other)  // (N, C, H, W)
      : x_(served(x)), output_(x, layout_of(x)) {
    if (other) other_ = served_as(*other, layout_of(x));
  }

  GradientOutput output(const Slopes& slopes, size_t layer) {
    GradientOutput gradient{};
    gradient.x = {x_.data_ptr(), *feature_map(x_)};
    gradient.dx = output_.dense().data_ptr();
    gradient.dx_map = *feature_map(output_.dense());
    if (other_) gradient.other = {other_->data_ptr(), *feature_map(*other_)};
    gradient.slopes = slopes.matrix(layer);
    gradient.scale = slopes.scale(layer);
    return gradient;
  }
  Tensor result() { return output_.finished(); }

 private:
  Tensor x_;
  LikeOutput output_;
  std::optional<Tensor> other_;
};

GramSums::GramSums(const std::vector<Tensor>& features, const CudaScope& cuda) {
  std::vector<FeatureMap> shapes;
  for (const Tensor& x : features) {
    maps_.push_back(served(x));
    shapes.push_back(*feature_map(maps_.back()));
    layers_.push_back({maps_.back().data_ptr(), shapes.back()});
  }
  element_ = element_of(maps_[0], "features");
  workspace_ = plan_gram(element_, shapes);
  partial_ = scratch(maps_[0], workspace_.partial, accumulator_type(maps_[0]));
  slots_ = scratch(maps_[0], workspace_.slots, accumulator_type(maps_[0]));
  arrivals_ = scratch(maps_[0], workspace_.arrivals, ScalarType::Int);
  check_launch(
      launch_gram_sums(element_, layers_, workspace_, partial_.data_ptr(), arrivals_.data_ptr(), cuda.stream()),
      "gram_sums");
}

void GramSums::finish_grams(const std::vector<GramOutput>& outputs, const CudaScope& cuda) const {
  check_launch(launch_gram_finish(element_, layers_, workspace_, outputs, partial_.data_ptr(), cuda.stream()),
               "gram_finish");
}

void GramSums::finish_styles(const std::vector<StyleOutput>& outputs, Distance distance, double parameter,
                             const Tensor& values, const Tensor& loss, const CudaScope& cuda) const {
  check_launch(
      launch_style_finish(element_, layers_, workspace_, outputs, distance, parameter, partial_.data_ptr(),
                          slots_.data_ptr(), arrivals_.data_ptr(), values.data_ptr(), loss.data_ptr(), cuda.stream()),
      "style_finish");
}

Slopes::Slopes(const std::vector<Tensor>& slopes, const Tensor& x, const CudaScope& cuda) {
  const Element element = element_of(x, "features");
  std::vector<NarrowSlopes> narrow;
  for (const Tensor& s : slopes) {
    matrices_.push_back(torch::stable::contiguous(s));
    scales_.emplace_back();
    if (!needs_narrow_slopes(element)) continue;
    const int64_t batch = s.size(0), channels = s.size(1);
    const Tensor wide = matrices_.back();
    wide_.push_back(wide);
    matrices_.back() = torch::stable::new_empty(s, {{batch, channels, narrow_pitch(channels)}}, x.scalar_type());
    scales_.back() = torch::stable::new_empty(s, {{batch, channels}}, ScalarType::Float);
    narrow.push_back({wide.data_ptr(), batch, channels, matrices_.back().data_ptr(), scales_.back()->data_ptr()});
  }
  if (!narrow.empty()) check_launch(launch_narrow(element, narrow, cuda.stream()), "narrow");
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> style_values(
    const std::vector<Tensor>& features,      // L x (N, C, H, W)
    const std::vector<Tensor>& target_grams,  // L x (N or 1, C, C)
    const std::vector<double>& weights,       // (L)
    const std::string& normalize, const std::string& distance, double parameter, const CudaScope& cuda) {
  const DistanceKind kind = distance_kind(distance);
  const int64_t layers = features.size(), batch = features[0].size(0);
  const ScalarType type = accumulator_type(features[0]);
  const Tensor loss = torch::stable::new_empty(features[0], {{batch}}, type);
  const Tensor values = torch::stable::new_empty(features[0], {{layers, batch}}, type);
  std::vector<Tensor> slopes, targets;
  std::vector<StyleOutput> outputs;
  for (int64_t l = 0; l < layers; ++l) {
    const int64_t channels = features[l].size(1), pixels = features[l].size(2) * features[l].size(3);
    const double scale = gram_scale(normalize, channels, pixels), mean = kind.scale(channels * channels);
    targets.push_back(torch::stable::contiguous(target_grams[l]));
    slopes.push_back(torch::stable::new_empty(features[0], {{batch, channels, channels}}, type));
    outputs.push_back({slopes[l].data_ptr(), targets[l].data_ptr(), targets[l].size(0), scale,
                       weights[l] * mean * scale, mean, weights[l]});
  }
  if (batch > 0) GramSums(features, cuda).finish_styles(outputs, kind.distance, parameter, values, loss, cuda);
  return {loss, values, slopes};
}

std::vector<Tensor> gram_gradients(const std::vector<Tensor>& slopes,                 // L x (N, C, C), symmetric
                                   const std::vector<Tensor>& features,               // L x (N, C, H, W)
                                   const std::vector<std::optional<Tensor>>& others,  // L x (N, C, H, W)
                                   const Tensor* grad,                                // (N), or null for ones
                                   const CudaScope& cuda) {
  std::vector<GradientTensors> gradients;
  for (size_t l = 0; l < features.size(); ++l) gradients.emplace_back(features[l], others[l]);
  std::vector<Tensor> results;
  if (features[0].size(0) > 0) {
    const Slopes matrices(slopes, features[0], cuda);
    std::vector<GradientOutput> outputs;
    for (size_t l = 0; l < features.size(); ++l) outputs.push_back(gradients[l].output(matrices, l));
    check_launch(launch_gram_gradient(element_of(features[0], "features"), outputs,
                                      grad == nullptr ? nullptr : grad->data_ptr(), cuda.stream()),
                 "gram_gradient");
  }
  for (GradientTensors& gradient : gradients) results.push_back(gradient.result());
  return results;
}

}  // namespace

Tensor gram_matrix_cuda(const Tensor x,  // (N, C, H, W)
                        const Name normalize) {
  check_map(x, "x");
  const CudaScope cuda(x);
  const double scale = gram_scale(normalize, x.size(1), x.size(2) * x.size(3));
  Tensor gram = torch::stable::new_empty(x, {{x.size(0), x.size(1), x.size(1)}}, accumulator_type(x));
  if (x.size(0) > 0) GramSums({x}, cuda).finish_grams({{gram.data_ptr(), scale}}, cuda);
  return gram;  // (N, C, C)
}

Tensor gram_matrix_backward_cuda(const Tensor grad,  // (N, C, C)
                                 const Tensor x,     // (N, C, H, W)
                                 const Name normalize) {
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
  return gram_gradients({symmetric}, {x}, {std::nullopt}, nullptr, cuda)[0];
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> style_loss_cuda(
    const std::vector<Tensor> features,      // L x (N, C, H, W)
    const std::vector<Tensor> target_grams,  // L x (N or 1, C, C)
    const std::vector<double> weights,       // (L)
    const Name normalize, const Name distance, double parameter) {
  check_features(features, weights);
  check_gram_pairs(features, target_grams, "target_grams");
  return style_values(features, target_grams, weights, normalize, distance, parameter, CudaScope(features[0]));
}

std::vector<Tensor> style_loss_backward_cuda(const std::optional<Tensor> grad,                   // (N)
                                             const std::vector<Tensor> features,                 // L x (N, C, H, W)
                                             const std::vector<Tensor> slopes,                   // L x (N, C, C)
                                             const std::vector<std::optional<Tensor>> others) {  // L x (N, C, H, W)
  check_features(features);
  check_slopes(features, slopes);
  check_other_gradients(features, others);
  const CudaScope cuda(features[0]);
  if (!grad) return gram_gradients(slopes, features, others, nullptr, cuda);
  check_upstream(*grad, features[0]);
  const Tensor upstream = torch::stable::contiguous(*grad);
  return gram_gradients(slopes, features, others, &upstream, cuda);
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("gram_matrix", TORCH_BOX(&gram_matrix_cuda));
  m.impl("gram_matrix_backward", TORCH_BOX(&gram_matrix_backward_cuda));
  m.impl("style_loss", TORCH_BOX(&style_loss_cuda));
  m.impl("style_loss_backward", TORCH_BOX(&style_loss_backward_cuda));
}

}  // namespace perceptual_ops
