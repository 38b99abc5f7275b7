// gram_matrix and style_loss on the CPU: the small (C, C) work between the products.
#include <string>

#include "../common/arguments.h"
#include "../common/layers.h"
#include "products_cpu.h"

namespace perceptual_ops {
namespace {

// Calls f(T{}) for the accumulation type of `gram`.
template <class F>
void dispatch_gram(const Tensor& gram, F&& f) {
  if (gram.scalar_type() == ScalarType::Double) return f(double{});
  check(gram.scalar_type() == ScalarType::Float, "gram: expected dtype float32 or float64");
  f(float{});
}

// Calls f(sample, row) for every row of N matrices of `channels` rows, in parallel.
template <class F>
void for_each_row(int64_t batch, int64_t channels, F&& f) {
  torch::stable::parallel_for(0, batch * channels, ceil_div(kGrain, channels), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) f(task / channels, task % channels);
  });
}

// matrix[i, j] and matrix[j, i] both become factor * (matrix[i, j] + matrix[j, i]).
template <class T>
void symmetrise_row(T* matrix, int64_t channels, int64_t i, T factor) {
  for (int64_t j = i; j < channels; ++j) {
    const T sum = factor * (matrix[i * channels + j] + matrix[j * channels + i]);
    matrix[i * channels + j] = sum;
    matrix[j * channels + i] = sum;
  }
}

// factor * (D + D^T) of every sample, contiguous: the target Gram need not be symmetric, so D need not be either.
Tensor symmetrised(const Tensor& slopes, double factor) {  // (N, C, C)
  Tensor out = torch::stable::clone(torch::stable::contiguous(slopes));
  const int64_t channels = out.size(1);
  dispatch_gram(out, [&](auto element) {
    using T = decltype(element);
    T* data = static_cast<T*>(out.data_ptr());
    for_each_row(out.size(0), channels, [&](int64_t n, int64_t i) {
      symmetrise_row(data + n * channels * channels, channels, i, static_cast<T>(factor));
    });
  });
  return out;
}

// value += sum over j of d(scale * raw[j] - target[j]); raw[j] becomes the slope d'.
template <Distance kDistance, class T>
PO_INLINE double finish_row(T* raw, const T* target, int64_t channels, T scale, T parameter) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < channels; ++j) {
    const Point<T> point = distance_at<kDistance>(scale * raw[j] - target[j], parameter);
    sum += point.value;
    raw[j] = point.slope;
  }
  return static_cast<double>(sum);
}

// Turns the raw Grams of one layer into the slopes d loss / d raw Gram, symmetrised, and fills value[0 .. N-1].
void finish_layer(const Tensor& raw,      // (N, C, C), overwritten
                  const Tensor& targets,  // (N or 1, C, C)
                  double scale, DistanceKind kind, double parameter, double weight, double* value) {
  const int64_t batch = raw.size(0), channels = raw.size(1), area = channels * channels;
  const Tensor target = torch::stable::contiguous(targets);
  const int64_t target_stride = target.size(0) == 1 ? 0 : area;
  std::vector<double> row_sums(batch * channels);
  dispatch_gram(raw, [&](auto element) {
    using T = decltype(element);
    T* raw_data = static_cast<T*>(raw.data_ptr());
    const T* target_data = static_cast<const T*>(target.data_ptr());
    dispatch_distance(kind.distance, [&](auto distance) {
      for_each_row(batch, channels, [&](int64_t n, int64_t i) {
        row_sums[n * channels + i] = finish_row<decltype(distance)::value>(
            raw_data + n * area + i * channels, target_data + n * target_stride + i * channels, channels,
            static_cast<T>(scale), static_cast<T>(parameter));
      });
    });
    const T factor = static_cast<T>(weight * kind.scale(area) * scale);
    for_each_row(batch, channels,
                 [&](int64_t n, int64_t i) { symmetrise_row(raw_data + n * area, channels, i, factor); });
  });
  for (int64_t n = 0; n < batch; ++n) value[n] = kind.scale(area) * ordered_sum(row_sums, n * channels, channels);
}

// grad[n] * matrix[n] for every sample.
Tensor scaled_samples(const Tensor& matrices, const std::vector<double>& factors) {  // (N, C, C)
  const Tensor dense = torch::stable::contiguous(matrices);
  Tensor out = torch::stable::empty_like(dense);
  const int64_t channels = dense.size(1);
  dispatch_gram(dense, [&](auto element) {
    using T = decltype(element);
    const T* from = static_cast<const T*>(dense.data_ptr());
    T* to = static_cast<T*>(out.data_ptr());
    for_each_row(dense.size(0), channels, [&](int64_t n, int64_t i) {
      const int64_t first = (n * channels + i) * channels;
      for (int64_t j = first; j < first + channels; ++j) to[j] = static_cast<T>(factors[n]) * from[j];
    });
  });
  return out;
}

}  // namespace

Tensor gram_matrix_cpu(const Tensor x,  // (N, C, H, W)
                       const std::string normalize) {
  check_map(x, "x");
  const double scale = gram_scale(normalize, x.size(1), x.size(2) * x.size(3));
  Tensor gram = gram_products(x);
  dispatch_gram(gram, [&](auto element) {
    using T = decltype(element);
    T* data = static_cast<T*>(gram.data_ptr());
    const int64_t channels = gram.size(1);
    for_each_row(gram.size(0), channels, [&](int64_t n, int64_t i) {
      T* row = data + (n * channels + i) * channels;
      for (int64_t j = 0; j < channels; ++j) row[j] *= static_cast<T>(scale);
    });
  });
  return gram;  // (N, C, C)
}

Tensor gram_matrix_backward_cpu(const Tensor grad,  // (N, C, C)
                                const Tensor x,     // (N, C, H, W)
                                const std::string normalize) {
  check_map(x, "x");
  check(grad.dim() == 3 && grad.size(0) == x.size(0) && grad.size(1) == x.size(1) && grad.size(2) == x.size(1),
        "grad: expected (", x.size(0), ", ", x.size(1), ", ", x.size(1), ")");
  check(grad.scalar_type() == accumulator_type(x), "grad: expected float32 (float64 for float64 x)");
  return gram_gradient(symmetrised(grad, gram_scale(normalize, x.size(1), x.size(2) * x.size(3))), x);
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> style_loss_cpu(
    const std::vector<Tensor> features,      // L x (N, C, H, W)
    const std::vector<Tensor> target_grams,  // L x (N or 1, C, C)
    const std::vector<double> weights,       // (L)
    const std::string normalize, const std::string distance, double parameter) {
  check_features(features, weights);
  check_gram_pairs(features, target_grams);
  const DistanceKind kind = distance_kind(distance);
  const int64_t layers = features.size(), batch = features[0].size(0);
  std::vector<double> values(layers * batch, 0.0);
  std::vector<Tensor> slopes;
  for (int64_t l = 0; l < layers; ++l) {
    const Tensor& x = features[l];
    slopes.push_back(gram_products(x));
    finish_layer(slopes.back(), target_grams[l], gram_scale(normalize, x.size(1), x.size(2) * x.size(3)), kind,
                 parameter, weights[l], &values[l * batch]);
  }
  auto [loss, per_layer] = weighted_losses(features[0], values, weights);
  return {loss, per_layer, slopes};
}

std::vector<Tensor> style_loss_backward_cpu(const Tensor grad,                   // (N)
                                            const std::vector<Tensor> features,  // L x (N, C, H, W)
                                            const std::vector<Tensor> slopes) {  // L x (N, C, C)
  check_features(features, std::vector<double>(features.size()));
  check_gram_pairs(features, slopes);
  check_upstream(grad, features[0]);
  const std::vector<double> upstream = to_doubles(grad);
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < features.size(); ++l) {
    gradients.push_back(gram_gradient(scaled_samples(slopes[l], upstream), features[l]));
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
