// DISTS on the CPU: one pass for the statistics of the channels, one for the gradient, which they make affine.
#include <array>

#include "arguments.h"
#include "statistics_cpu.h"

namespace perceptual_ops {
namespace {

// The statistics of one channel, and how its two distances are weighted.
struct Channel {
  double x_mean, y_mean, error_mean, x_variance, y_variance, error_variance, alpha, beta;

  double means_divisor() const { return x_mean * x_mean + y_mean * y_mean + kDistsEps; }
  double structures_divisor() const { return x_variance + y_variance + kDistsEps; }
  double value() const {
    return alpha * error_mean * error_mean / means_divisor() + beta * error_variance / structures_divisor();
  }
};

Channel channel_at(const std::vector<double>& statistics,  // (N, 6, C)
                   const std::vector<double>& alpha, const std::vector<double>& beta, int64_t n, int64_t c) {
  const int64_t channels = alpha.size();
  const auto at = [&](int64_t i) { return statistics[(n * kDistsStatistics + i) * channels + c]; };
  return {at(0), at(1), at(2), at(3), at(4), at(5), alpha[c], beta[c]};
}

// The gradient with respect to one map z of a channel: base + by_error ((x - y) - error_mean) + by_own (z - own_mean).
struct Slopes {
  double base, by_error, by_own, error_mean, own_mean;
};
constexpr int64_t kSlopes = 5;

Slopes slopes_of(const Channel& channel, double upstream, bool by_targets) {
  const double sign = by_targets ? -1 : 1, own_mean = by_targets ? channel.y_mean : channel.x_mean;
  const double of_means = 2 * upstream * channel.alpha * channel.error_mean / channel.means_divisor();
  const double of_structures = 2 * upstream * channel.beta / channel.structures_divisor();
  return {of_means * (sign - channel.error_mean * own_mean / channel.means_divisor()), sign * of_structures,
          -of_structures * channel.error_variance / channel.structures_divisor(), channel.error_mean, own_mean};
}

// Slopes of every channel of a sample, side by side.
template <class Acc>
struct SlopeRows {
  const Acc *base, *by_error, *by_own, *error_mean, *own_mean;

  SlopeRows(const Acc* rows, int64_t channels)  // (5, C)
      : base(rows),
        by_error(rows + channels),
        by_own(rows + 2 * channels),
        error_mean(rows + 3 * channels),
        own_mean(rows + 4 * channels) {}
};

// The channels of one pixel.
template <class T>
PO_INLINE void pixel_walk(const T* x, const T* y, const T* own, SlopeRows<Accumulator<T>> slopes, int64_t channels,
                          T* out) {
  using Acc = Accumulator<T>;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const Acc error = static_cast<Acc>(x[c]) - static_cast<Acc>(y[c]);
    store_rounded(out[c], slopes.base[c] + slopes.by_error[c] * (error - slopes.error_mean[c]) +
                              slopes.by_own[c] * (static_cast<Acc>(own[c]) - slopes.own_mean[c]));
  }
}

// Pixels of channel c.
template <class T>
PO_INLINE void channel_walk(const T* x, const T* y, const T* own, SlopeRows<Accumulator<T>> slopes, int64_t c,
                            int64_t pixels, T* out) {
  using Acc = Accumulator<T>;
  const Acc base = slopes.base[c], by_error = slopes.by_error[c], by_own = slopes.by_own[c];
  const Acc error_mean = slopes.error_mean[c], own_mean = slopes.own_mean[c];
#pragma omp simd
  for (int64_t i = 0; i < pixels; ++i) {
    const Acc error = static_cast<Acc>(x[i]) - static_cast<Acc>(y[i]);
    store_rounded(out[i], base + by_error * (error - error_mean) + by_own * (static_cast<Acc>(own[i]) - own_mean));
  }
}

// Clones cannot be templates.
#define PO_DISTS_GRADIENT(T)                                                                                  \
  PO_CPU_CLONES void pixel_gradient(const T* x, const T* y, const T* own, SlopeRows<Accumulator<T>> slopes,   \
                                    int64_t channels, T* out) {                                               \
    pixel_walk(x, y, own, slopes, channels, out);                                                             \
  }                                                                                                           \
  PO_CPU_CLONES void channel_gradient(const T* x, const T* y, const T* own, SlopeRows<Accumulator<T>> slopes, \
                                      int64_t c, int64_t pixels, T* out) {                                    \
    channel_walk(x, y, own, slopes, c, pixels, out);                                                          \
  }
PO_DISTS_GRADIENT(float)
PO_DISTS_GRADIENT(double)
PO_DISTS_GRADIENT(Half)
PO_DISTS_GRADIENT(BFloat16)

// One layer, in the layout in which it is walked.
struct Layer {
  Layout layout;
  ServedMap x, y;                   // (N, C, H, W), (N or 1, C, H, W)
  std::vector<double> alpha, beta;  // (C)

  Layer(const Tensor& features, const Tensor& targets, const Tensor& of_means, const Tensor& of_structures)
      : layout(statistics_layout(features)),
        x(features, layout),
        y(targets, layout),
        alpha(to_doubles(of_means)),
        beta(to_doubles(of_structures)) {}
};

// (N, 5, C) as the gradient walks read them; grad: upstream of each sample.
template <class Acc>
std::vector<Acc> slope_rows(const Layer& layer, const std::vector<double>& statistics,  // (N, 6, C)
                            const std::vector<double>& grad, bool by_targets) {
  const int64_t batch = grad.size(), channels = layer.alpha.size();
  std::vector<Acc> rows(batch * kSlopes * channels);
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      const Channel channel = channel_at(statistics, layer.alpha, layer.beta, n, c);
      const Slopes slopes = slopes_of(channel, grad[n] / static_cast<double>(layer.x.map.pixels), by_targets);
      const double numbers[kSlopes] = {slopes.base, slopes.by_error, slopes.by_own, slopes.error_mean, slopes.own_mean};
      for (int64_t i = 0; i < kSlopes; ++i) rows[(n * kSlopes + i) * channels + c] = static_cast<Acc>(numbers[i]);
    }
  }
  return rows;
}

// Fills `outs`, the gradients with respect to x and y (null where not wanted), dense in the layer's layout.
template <class T>
void walk_gradients(const Layer& layer, const std::vector<double>& statistics,  // (N, 6, C)
                    const std::vector<double>& grad, std::array<Tensor*, 2> outs) {
  using Acc = Accumulator<T>;
  const int64_t batch = grad.size(), channels = layer.x.map.channels;
  std::array<std::vector<Acc>, 2> rows;
  for (int side = 0; side < 2; ++side) {
    if (outs[side]) rows[side] = slope_rows<Acc>(layer, statistics, grad, side == 1);
  }
  const FeatureMap dense = dense_block(layer.x.map, batch, layer.x.map.pixels);
  for_each_run(dense, layer.layout, [&](int64_t n, int64_t run, int64_t length) {
    const T *x = layer.x.at<T>(layer.layout, n, run), *y = layer.y.at<T>(layer.layout, n, run);
    for (int side = 0; side < 2; ++side) {
      if (!outs[side]) continue;
      const SlopeRows<Acc> slopes(&rows[side][n * kSlopes * channels], channels);
      const T* own = side == 0 ? x : y;
      T* out = static_cast<T*>(outs[side]->data_ptr()) + run_start(dense, layer.layout, n, run);
      layer.layout == Layout::kNHWC ? pixel_gradient(x, y, own, slopes, channels, out)
                                    : channel_gradient(x, y, own, slopes, run, length, out);
    }
  });
}

}  // namespace

std::tuple<Tensor, Tensor, std::vector<Tensor>> dists_distance_cpu(
    const std::vector<Tensor> features,  // L x (N, C, H, W)
    const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
    const std::vector<Tensor> alpha,     // L x (C)
    const std::vector<Tensor> beta) {    // L x (C)
  check_dists(features, targets, alpha, beta);
  const int64_t layers = features.size(), batch = features[0].size(0);
  std::vector<double> values(layers * batch, 0.0);
  std::vector<Tensor> all_statistics;  // L x (N, 6, C)
  for (int64_t l = 0; l < layers; ++l) {
    const Layer layer(features[l], targets[l], alpha[l], beta[l]);
    const int64_t channels = layer.x.map.channels;
    const std::vector<double> statistics = channel_moments(layer.x, layer.y, layer.layout);
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t c = 0; c < channels; ++c) {
        values[l * batch + n] += channel_at(statistics, layer.alpha, layer.beta, n, c).value();
      }
    }
    all_statistics.push_back(from_doubles(features[l], statistics, {batch, kDistsStatistics, channels}));
  }
  const auto [loss, per_layer] = weighted_losses(features[0], values, std::vector<double>(layers, 1.0));
  return {loss, per_layer, all_statistics};
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> dists_distance_backward_cpu(
    const Tensor grad,                     // (N)
    const std::vector<Tensor> features,    // L x (N, C, H, W)
    const std::vector<Tensor> targets,     // L x (N or 1, C, H, W)
    const std::vector<Tensor> alpha,       // L x (C)
    const std::vector<Tensor> beta,        // L x (C)
    const std::vector<Tensor> statistics,  // L x (N, 6, C)
    bool by_features, bool by_targets) {
  check_dists(features, targets, alpha, beta);
  check_upstream(grad, features[0]);
  check_statistics(statistics, features, kDistsStatistics, "statistics");
  const std::vector<double> upstream = to_doubles(grad);
  std::vector<Tensor> dx, dy;
  for (size_t l = 0; l < features.size(); ++l) {
    const Layer layer(features[l], targets[l], alpha[l], beta[l]);
    std::optional<LikeOutput> of_features, of_targets;
    if (by_features) of_features.emplace(features[l], layer.layout);
    if (by_targets) of_targets.emplace(features[l], layer.layout);
    dispatch_dtype(features[l], "features", [&](auto element) {
      walk_gradients<decltype(element)>(
          layer, to_doubles(statistics[l]), upstream,
          {of_features ? &of_features->dense() : nullptr, of_targets ? &of_targets->dense() : nullptr});
    });
    if (of_features) dx.push_back(of_features->finished());
    if (of_targets) dy.push_back(of_targets->finished());
  }
  return {dx, dy};  // L x (N, C, H, W) each, or none
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("dists_distance", TORCH_BOX(&dists_distance_cpu));
  m.impl("dists_distance_backward", TORCH_BOX(&dists_distance_backward_cpu));
}

}  // namespace perceptual_ops
