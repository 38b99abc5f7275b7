// Means and standard deviations of channels on the CPU: one pass for the moments, one for the gradient, which they make
// affine.
#include <cmath>

#include "arguments.h"
#include "statistics_cpu.h"

namespace perceptual_ops {
namespace {

// The gradient with respect to a channel is base + by_deviation (x - mean), for all channels of a sample.
template <class Acc>
struct DeviationRows {
  const Acc *mean, *base, *by_deviation;

  DeviationRows(const Acc* rows, int64_t channels)  // (3, C)
      : mean(rows), base(rows + channels), by_deviation(rows + 2 * channels) {}
};
constexpr int64_t kRows = 3;

// The channels of one pixel; `other` is null or added.
template <bool kAdds, class T>
PO_INLINE void pixel_walk(const T* x, const T* other, DeviationRows<Accumulator<T>> rows, int64_t channels, T* out) {
  using Acc = Accumulator<T>;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    Acc result = rows.base[c] + rows.by_deviation[c] * (static_cast<Acc>(x[c]) - rows.mean[c]);
    if constexpr (kAdds) result += static_cast<Acc>(other[c]);
    store_rounded(out[c], result);
  }
}

// Pixels of channel c.
template <bool kAdds, class T>
PO_INLINE void channel_walk(const T* x, const T* other, DeviationRows<Accumulator<T>> rows, int64_t c, int64_t pixels,
                            T* out) {
  using Acc = Accumulator<T>;
  const Acc mean = rows.mean[c], base = rows.base[c], by_deviation = rows.by_deviation[c];
#pragma omp simd
  for (int64_t i = 0; i < pixels; ++i) {
    Acc result = base + by_deviation * (static_cast<Acc>(x[i]) - mean);
    if constexpr (kAdds) result += static_cast<Acc>(other[i]);
    store_rounded(out[i], result);
  }
}

// Clones cannot be templates.
#define PO_DEVIATION_GRADIENT(T)                                                                                      \
  PO_CPU_CLONES void pixel_gradient(const T* x, const T* other, DeviationRows<Accumulator<T>> rows, int64_t channels, \
                                    T* out) {                                                                         \
    other ? pixel_walk<true>(x, other, rows, channels, out) : pixel_walk<false>(x, other, rows, channels, out);       \
  }                                                                                                                   \
  PO_CPU_CLONES void channel_gradient(const T* x, const T* other, DeviationRows<Accumulator<T>> rows, int64_t c,      \
                                      int64_t pixels, T* out) {                                                       \
    other ? channel_walk<true>(x, other, rows, c, pixels, out) : channel_walk<false>(x, other, rows, c, pixels, out); \
  }
PO_DEVIATION_GRADIENT(float)
PO_DEVIATION_GRADIENT(double)
PO_DEVIATION_GRADIENT(Half)
PO_DEVIATION_GRADIENT(BFloat16)

// (N, 3, C) as the gradient walks read them.
template <class Acc>
std::vector<Acc> deviation_rows(const std::vector<double>& statistics,  // (N, 2, C)
                                const std::vector<double>& slopes,      // (N, 2, C)
                                const std::vector<double>& factors,     // (N): upstream over the pixels
                                int64_t channels) {
  std::vector<Acc> rows(factors.size() * kRows * channels);
  for (size_t n = 0; n < factors.size(); ++n) {
    const double *mean = &statistics[n * 2 * channels], *deviation = mean + channels;
    const double *of_mean = &slopes[n * 2 * channels], *of_deviation = of_mean + channels;
    Acc* row = &rows[n * kRows * channels];
    for (int64_t c = 0; c < channels; ++c) {
      row[c] = static_cast<Acc>(mean[c]);
      row[channels + c] = static_cast<Acc>(factors[n] * of_mean[c]);
      row[2 * channels + c] = static_cast<Acc>(factors[n] * of_deviation[c] / deviation[c]);
    }
  }
  return rows;
}

template <class T>
Tensor deviation_gradient(const Tensor& features, const std::vector<Accumulator<T>>& rows,
                          const std::optional<Tensor>& other) {
  const Layout layout = statistics_layout(features);
  const ServedMap x(features, layout);
  std::optional<ServedMap> added;
  if (other) added.emplace(*other, layout);
  return filled_like(features, layout, [&](Tensor& out) {
    const int64_t channels = x.map.channels;
    const FeatureMap dense = dense_block(x.map, x.map.batch, x.map.pixels);
    for_each_run(dense, layout, [&](int64_t n, int64_t run, int64_t length) {
      const T *from = x.at<T>(layout, n, run), *plus = added ? added->at<T>(layout, n, run) : nullptr;
      const DeviationRows<Accumulator<T>> of_sample(&rows[n * kRows * channels], channels);
      T* to = static_cast<T*>(out.data_ptr()) + run_start(dense, layout, n, run);
      layout == Layout::kNHWC ? pixel_gradient(from, plus, of_sample, channels, to)
                              : channel_gradient(from, plus, of_sample, run, length, to);
    });
  });
}

}  // namespace

std::vector<Tensor> channel_statistics_cpu(const std::vector<Tensor> features) {  // L x (N, C, H, W)
  check_features(features);
  std::vector<Tensor> results;
  for (const Tensor& x : features) {
    const Layout layout = statistics_layout(x);
    const int64_t batch = x.size(0), channels = x.size(1);
    std::vector<double> statistics = channel_moments(ServedMap(x, layout), layout);
    for (int64_t i = 0; i < batch * channels; ++i) {
      double& variance = statistics[(2 * (i / channels) + 1) * channels + i % channels];
      variance = std::sqrt(variance + kDeviationEps);
    }
    results.push_back(from_doubles(x, statistics, {batch, kChannelStatistics, channels}));
  }
  return results;  // L x (N, 2, C)
}

std::vector<Tensor> channel_statistics_backward_cpu(
    const std::optional<Tensor> grad,                   // (N)
    const std::vector<Tensor> features,                 // L x (N, C, H, W)
    const std::vector<Tensor> statistics,               // L x (N, 2, C)
    const std::vector<Tensor> slopes,                   // L x (N, 2, C)
    const std::vector<int64_t> pixels,                  // (L)
    const std::vector<std::optional<Tensor>> others) {  // L x (N, C, H, W)
  check_deviations(features, statistics, slopes, pixels, others);
  if (grad) check_upstream(*grad, features[0]);
  const std::vector<double> upstream = grad ? to_doubles(*grad) : std::vector<double>(features[0].size(0), 1.0);
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < features.size(); ++l) {
    const Tensor& x = features[l];
    const std::vector<double> factors = weighted_upstream(1.0 / static_cast<double>(pixels[l]), upstream);
    const std::vector<double> numbers = to_doubles(statistics[l]), by_numbers = to_doubles(slopes[l]);
    dispatch_dtype(x, "features", [&](auto element) {
      using T = decltype(element);
      const auto rows = deviation_rows<Accumulator<T>>(numbers, by_numbers, factors, x.size(1));
      gradients.push_back(deviation_gradient<T>(x, rows, others[l]));
    });
  }
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("channel_statistics", TORCH_BOX(&channel_statistics_cpu));
  m.impl("channel_statistics_backward", TORCH_BOX(&channel_statistics_backward_cpu));
}

}  // namespace perceptual_ops
