// feature_loss on the CPU: value, gradient or both in one pass. Pointwise, so only the order in memory matters.
#include <string>

#include "../common/arguments.h"
#include "../common/cpu.h"
#include "../common/layers.h"
#include "../common/wanted.h"

namespace perceptual_ops {
namespace {

// Returns the sum of distances and writes d' * factor into dx, each if wanted.
template <Distance kDistance, Wanted kWanted, class T>
PO_INLINE double walk_block_impl(const T* x, const T* y, T* dx, int64_t count, double parameter, double factor) {
  using Acc = Accumulator<T>;
  const Acc p = static_cast<Acc>(parameter), f = static_cast<Acc>(factor);
  Acc sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    const Point<Acc> point = distance_at<kDistance>(static_cast<Acc>(x[i]) - static_cast<Acc>(y[i]), p);
    if constexpr (kWantsValue<kWanted>) sum += point.value;
    if constexpr (kWantsGradient<kWanted>) store_rounded(dx[i], f * point.slope);
  }
  return static_cast<double>(sum);
}

// Clones cannot be templates: one function per dtype, distance and result.
#define PO_DISTANCE_WALK(kDistance, kWanted, T)                                                           \
  PO_CPU_CLONES double walk_block(std::integral_constant<Distance, kDistance>,                            \
                                  std::integral_constant<Wanted, kWanted>, const T* x, const T* y, T* dx, \
                                  int64_t count, double parameter, double factor) {                       \
    return walk_block_impl<kDistance, kWanted>(x, y, dx, count, parameter, factor);                       \
  }
#define PO_DISTANCE_WALKS(kDistance, T)             \
  PO_DISTANCE_WALK(kDistance, Wanted::kValue, T)    \
  PO_DISTANCE_WALK(kDistance, Wanted::kGradient, T) \
  PO_DISTANCE_WALK(kDistance, Wanted::kBoth, T)
#define PO_DISTANCE_WALKS_OF(T)                \
  PO_DISTANCE_WALKS(Distance::kSquared, T)     \
  PO_DISTANCE_WALKS(Distance::kL1, T)          \
  PO_DISTANCE_WALKS(Distance::kCharbonnier, T) \
  PO_DISTANCE_WALKS(Distance::kHuber, T)
PO_DISTANCE_WALKS_OF(float)
PO_DISTANCE_WALKS_OF(double)
PO_DISTANCE_WALKS_OF(Half)
PO_DISTANCE_WALKS_OF(BFloat16)

// Samples of a batch of one stand for every sample.
int64_t sample_stride(const Tensor& x) { return x.size(0) == 1 ? 0 : x.stride(0); }

// One layer: the mean (or sum) of the distance over each sample into value[0 .. N-1], and the gradient, densely, into
// dx, where they are wanted.
void walk_layer(const Tensor& features, const Tensor& targets, Layout layout, DistanceKind kind, double parameter,
                Wanted wanted, const std::vector<double>& factors, double* value, Tensor* gradient) {
  const int64_t batch = features.size(0), sample_size = features.size(1) * features.size(2) * features.size(3);
  if (batch == 0) return;
  const Tensor x = dense_samples(features, layout), y = dense_samples(targets, layout);
  const int64_t stride_x = sample_stride(x), stride_y = sample_stride(y);
  const int64_t blocks = ceil_div(sample_size, kBlock);
  const double scale = kind.scale(sample_size);
  std::vector<double> partial(batch * blocks);
  dispatch_dtype(x, "features", [&](auto element) {
    using T = decltype(element);
    const T* x_data = static_cast<const T*>(x.data_ptr());
    const T* y_data = static_cast<const T*>(y.data_ptr());
    T* dx = gradient ? static_cast<T*>(gradient->data_ptr()) : nullptr;
    dispatch_distance(kind.distance, [&](auto distance) {
      dispatch_wanted(wanted, [&](auto walked) {
        for_each_block(batch, sample_size, [&](int64_t n, int64_t first, int64_t count) {
          partial[n * blocks + first / kBlock] =
              walk_block(distance, walked, x_data + n * stride_x + first, y_data + n * stride_y + first,
                         dx ? dx + n * sample_size + first : nullptr, count, parameter, scale * factors[n]);
        });
      });
    });
  });
  if (wanted == Wanted::kGradient) return;
  for (int64_t n = 0; n < batch; ++n) value[n] = scale * ordered_sum(partial, n * blocks, blocks);
}

// Values, gradients or both; what is not wanted means nothing.
struct Result {
  std::vector<double> values;     // (L, N)
  std::vector<Tensor> gradients;  // L x (N, C, H, W)
};

Result run(const std::vector<Tensor>& features,  // L x (N, C, H, W)
           const std::vector<Tensor>& targets,   // L x (N or 1, C, H, W)
           const std::vector<double>& weights,   // (L)
           const std::string& distance, double parameter,
           const std::optional<Tensor>& grad,  // (N)
           Wanted wanted) {
  check_feature_pairs(features, targets, weights);
  if (grad) check_upstream(*grad, features[0]);
  const int64_t layers = features.size(), batch = features[0].size(0);
  const DistanceKind kind = distance_kind(distance);
  const std::vector<double> upstream = grad ? to_doubles(*grad) : std::vector<double>(batch, 1.0);
  Result result{std::vector<double>(layers * batch), {}};
  for (int64_t l = 0; l < layers; ++l) {
    double* value = &result.values[l * batch];
    const std::vector<double> factors = weighted_upstream(weights[l], upstream);
    const Layout layout = layout_of(features[l]);
    const auto walk = [&](Tensor* gradient) {
      walk_layer(features[l], targets[l], layout, kind, parameter, wanted, factors, value, gradient);
    };
    if (wanted == Wanted::kValue) {
      walk(nullptr);
    } else {
      result.gradients.push_back(filled_like(features[l], layout, [&](Tensor& out) { walk(&out); }));
    }
  }
  return result;
}

}  // namespace

std::tuple<Tensor, Tensor> feature_loss_cpu(const std::vector<Tensor> features,  // L x (N, C, H, W)
                                            const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
                                            const std::vector<double> weights,   // (L)
                                            const Name distance, double parameter) {
  const Result result = run(features, targets, weights, distance, parameter, std::nullopt, Wanted::kValue);
  return weighted_losses(features[0], result.values, weights);
}

std::vector<Tensor> feature_loss_backward_cpu(const Tensor grad,                   // (N)
                                              const std::vector<Tensor> features,  // L x (N, C, H, W)
                                              const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
                                              const std::vector<double> weights,   // (L)
                                              const Name distance, double parameter) {
  return run(features, targets, weights, distance, parameter, grad, Wanted::kGradient).gradients;
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> feature_loss_with_gradient_cpu(
    const std::vector<Tensor> features,  // L x (N, C, H, W)
    const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
    const std::vector<double> weights,   // (L)
    const Name distance, double parameter,
    const std::optional<Tensor> grad) {  // (N)
  const Result result = run(features, targets, weights, distance, parameter, grad, Wanted::kBoth);
  const auto [loss, values] = weighted_losses(features[0], result.values, weights);
  return {loss, values, result.gradients};
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("feature_loss", TORCH_BOX(&feature_loss_cpu));
  m.impl("feature_loss_backward", TORCH_BOX(&feature_loss_backward_cpu));
  m.impl("feature_loss_with_gradient", TORCH_BOX(&feature_loss_with_gradient_cpu));
}

}  // namespace perceptual_ops
