// feature_loss on the CPU: one pass for the value, one for the gradient. Pointwise, so only the order in memory
// matters.
#include "feature_loss_cpu.h"

#include <string>

#include "../common/layers.h"

namespace perceptual_ops {
namespace {

template <Distance kDistance, class T>
PO_INLINE double distance_sum(const T* x, const T* y, int64_t count, double parameter) {
  using Acc = Accumulator<T>;
  const Acc p = static_cast<Acc>(parameter);
  Acc sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    sum += distance_at<kDistance>(static_cast<Acc>(x[i]) - static_cast<Acc>(y[i]), p).value;
  }
  return static_cast<double>(sum);
}

template <Distance kDistance, class T>
PO_INLINE void distance_slope(const T* x, const T* y, T* dx, int64_t count, double parameter, double factor) {
  using Acc = Accumulator<T>;
  const Acc p = static_cast<Acc>(parameter), f = static_cast<Acc>(factor);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Acc error = static_cast<Acc>(x[i]) - static_cast<Acc>(y[i]);
    store_rounded(dx[i], f * distance_at<kDistance>(error, p).slope);
  }
}

template <Distance kDistance, class T>
PO_INLINE void distance_slope_added(const T* x, const T* y, Accumulator<T>* sum, int64_t count, double parameter,
                                    double factor) {
  using Acc = Accumulator<T>;
  const Acc p = static_cast<Acc>(parameter), f = static_cast<Acc>(factor);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    sum[i] += f * distance_at<kDistance>(static_cast<Acc>(x[i]) - static_cast<Acc>(y[i]), p).slope;
  }
}

// Clones cannot be templates: one set of functions a dtype and distance.
#define PO_DISTANCE_LOOPS(kDistance, T)                                                                              \
  PO_CPU_CLONES double sum_block(std::integral_constant<Distance, kDistance>, const T* x, const T* y, int64_t count, \
                                 double parameter) {                                                                 \
    return distance_sum<kDistance>(x, y, count, parameter);                                                          \
  }                                                                                                                  \
  PO_CPU_CLONES void slope_block(std::integral_constant<Distance, kDistance>, const T* x, const T* y, T* dx,         \
                                 int64_t count, double parameter, double factor) {                                   \
    distance_slope<kDistance>(x, y, dx, count, parameter, factor);                                                   \
  }                                                                                                                  \
  PO_CPU_CLONES void add_slopes(std::integral_constant<Distance, kDistance>, const T* x, const T* y,                 \
                                Accumulator<T>* sum, int64_t count, double parameter, double factor) {               \
    distance_slope_added<kDistance>(x, y, sum, count, parameter, factor);                                            \
  }
#define PO_DISTANCE_LOOPS_OF(T)                \
  PO_DISTANCE_LOOPS(Distance::kSquared, T)     \
  PO_DISTANCE_LOOPS(Distance::kL1, T)          \
  PO_DISTANCE_LOOPS(Distance::kCharbonnier, T) \
  PO_DISTANCE_LOOPS(Distance::kHuber, T)
PO_DISTANCE_LOOPS_OF(float)
PO_DISTANCE_LOOPS_OF(double)
PO_DISTANCE_LOOPS_OF(Half)
PO_DISTANCE_LOOPS_OF(BFloat16)

// Samples of a batch of one stand for every sample.
int64_t sample_stride(const Tensor& x) { return x.size(0) == 1 ? 0 : x.stride(0); }

// Calls f(sample, first, count) for every block of every sample, in parallel.
template <class F>
void for_each_block(int64_t batch, int64_t sample_size, F&& f) {
  const int64_t blocks = ceil_div(sample_size, kBlock);
  torch::stable::parallel_for(0, batch * blocks, kGrain / kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * kBlock;
      f(task / blocks, first, std::min(kBlock, sample_size - first));
    }
  });
}

}  // namespace

void feature_values(const Tensor& features, const Tensor& targets, DistanceKind kind, double parameter, double* value) {
  const int64_t batch = features.size(0), sample_size = features.size(1) * features.size(2) * features.size(3);
  if (batch * sample_size == 0) return;
  const Layout layout = layout_of(features);
  const Tensor x = dense_samples(features, layout), y = dense_samples(targets, layout);
  const int64_t stride_x = sample_stride(x), stride_y = sample_stride(y);
  const int64_t blocks = ceil_div(sample_size, kBlock);
  std::vector<double> partial(batch * blocks);
  dispatch_dtype(x, "features", [&](auto element) {
    using T = decltype(element);
    const T* x_data = static_cast<const T*>(x.data_ptr());
    const T* y_data = static_cast<const T*>(y.data_ptr());
    dispatch_distance(kind.distance, [&](auto distance) {
      for_each_block(batch, sample_size, [&](int64_t n, int64_t first, int64_t count) {
        partial[n * blocks + first / kBlock] =
            sum_block(distance, x_data + n * stride_x + first, y_data + n * stride_y + first, count, parameter);
      });
    });
  });
  for (int64_t n = 0; n < batch; ++n) value[n] = kind.scale(sample_size) * ordered_sum(partial, n * blocks, blocks);
}

Tensor feature_gradient(const Tensor& features, const Tensor& targets, DistanceKind kind, double parameter,
                        const std::vector<double>& factors) {
  const int64_t batch = features.size(0), sample_size = features.size(1) * features.size(2) * features.size(3);
  const Layout layout = layout_of(features);
  return filled_like(features, layout, [&](Tensor& out) {
    if (batch * sample_size == 0) return;
    const Tensor x = dense_samples(features, layout), y = dense_samples(targets, layout);
    const int64_t stride_x = sample_stride(x), stride_y = sample_stride(y);
    const double scale = kind.scale(sample_size);
    dispatch_dtype(x, "features", [&](auto element) {
      using T = decltype(element);
      const T* x_data = static_cast<const T*>(x.data_ptr());
      const T* y_data = static_cast<const T*>(y.data_ptr());
      T* out_data = static_cast<T*>(out.data_ptr());
      dispatch_distance(kind.distance, [&](auto distance) {
        for_each_block(batch, sample_size, [&](int64_t n, int64_t first, int64_t count) {
          slope_block(distance, x_data + n * stride_x + first, y_data + n * stride_y + first,
                      out_data + n * sample_size + first, count, parameter, scale * factors[n]);
        });
      });
    });
  });
}

GradientTerm feature_gradient_term(const Tensor& features, const Tensor& targets, DistanceKind kind, double parameter,
                                   const std::vector<double>& factors) {
  const Layout layout = layout_of(features);
  const Tensor x = served(features), y = dense_samples(targets, layout);
  const FeatureMap x_map = *feature_map(x);
  FeatureMap y_map = *feature_map(y);
  y_map.stride_n = sample_stride(y);
  return [=](int64_t sample, int64_t first, const FeatureMap& block, void* sum) {
    dispatch_dtype(x, "features", [&](auto element) {
      using T = decltype(element);
      const T* x_data = static_cast<const T*>(x.data_ptr());
      const T* y_data = static_cast<const T*>(y.data_ptr());
      auto* sum_data = static_cast<Accumulator<T>*>(sum);
      dispatch_distance(kind.distance, [&](auto distance) {
        for_each_run(block, layout, [&](int64_t n, int64_t run, int64_t length) {
          add_slopes(distance, x_data + run_start(x_map, layout, sample + n, run, first),
                     y_data + run_start(y_map, layout, sample + n, run, first),
                     sum_data + run_start(block, layout, n, run), length, parameter,
                     kind.scale(x_map.sample_size()) * factors[sample + n]);
        });
      });
    });
  };
}

std::tuple<Tensor, Tensor> feature_loss_cpu(const std::vector<Tensor> features,  // L x (N, C, H, W)
                                            const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
                                            const std::vector<double> weights,   // (L)
                                            const std::string distance, double parameter) {
  check_feature_pairs(features, targets, weights);
  const DistanceKind kind = distance_kind(distance);
  const int64_t layers = features.size(), batch = features[0].size(0);
  std::vector<double> values(layers * batch, 0.0);
  for (int64_t l = 0; l < layers; ++l) feature_values(features[l], targets[l], kind, parameter, &values[l * batch]);
  return weighted_losses(features[0], values, weights);
}

std::vector<Tensor> feature_loss_backward_cpu(const Tensor grad,                   // (N)
                                              const std::vector<Tensor> features,  // L x (N, C, H, W)
                                              const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
                                              const std::vector<double> weights,   // (L)
                                              const std::string distance, double parameter) {
  check_feature_pairs(features, targets, weights);
  const DistanceKind kind = distance_kind(distance);
  check_upstream(grad, features[0]);
  const std::vector<double> upstream = to_doubles(grad);
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < features.size(); ++l) {
    gradients.push_back(
        feature_gradient(features[l], targets[l], kind, parameter, weighted_upstream(weights[l], upstream)));
  }
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("feature_loss", TORCH_BOX(&feature_loss_cpu));
  m.impl("feature_loss_backward", TORCH_BOX(&feature_loss_backward_cpu));
}

}  // namespace perceptual_ops
