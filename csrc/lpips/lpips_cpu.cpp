// LPIPS on the CPU: values, maps of distances and gradients in one walk over blocks of pixels.
#include <algorithm>
#include <numeric>

#include "arguments.h"
#include "pixel_block_cpu.h"

namespace perceptual_ops {
namespace {

// Pixels of a block: in NHWC as many of both maps as fit L1, in NCHW whole cache lines of each channel, held in L2.
int64_t block_pixels(Layout layout, int64_t channels) {
  return layout == Layout::kNHWC ? std::clamp<int64_t>(2048 / channels, 4, kMaxPixels)
                                 : std::clamp<int64_t>(32768 / channels, 16, kMaxPixels);
}

// A map whose blocks are read in the accumulation type.
template <class T>
class BlockReader {
  using Acc = Accumulator<T>;

 public:
  BlockReader(const Tensor& map, Layout layout)  // (N or 1, C, H, W)
      : tensor_(served_as(map, layout)), layout_(layout), map_(*feature_map(tensor_)) {
    if (map_.batch == 1) map_.stride_n = 0;  // one sample stands for every sample
  }

  int64_t buffer_size() const { return in_place() ? 0 : map_.channels * block_pixels(layout_, map_.channels); }

  // The block that begins at pixel `first` of sample n. Channels of an NCHW map lie powers of two apart and so
  // conflict in cache: they are read once.
  Rows<const Acc> read(int64_t n, int64_t first, const BlockShape& shape, Acc* buffer) const {
    const bool nchw = layout_ == Layout::kNCHW;
    const T* data = static_cast<const T*>(tensor_.data_ptr()) + run_start(map_, layout_, n, 0, first);
    const Rows<const T> rows{data, nchw ? map_.stride_c : map_.stride_p};
    if constexpr (std::is_same_v<T, Acc>) {
      if (in_place()) return rows;
    }
    const int64_t length = nchw ? shape.pixels : shape.channels;
    widen_rows(rows, nchw ? shape.channels : shape.pixels, length, {buffer, length});
    return {buffer, length};
  }

 private:
  bool in_place() const { return std::is_same_v<T, Acc> && layout_ == Layout::kNHWC; }

  Tensor tensor_;
  Layout layout_;
  FeatureMap map_;
};

struct Settings {
  LengthSettings length;
  bool by_features, by_targets;
};

// The upstream gradient: one number per sample, or one per pixel.
struct Upstream {
  std::vector<double> of_samples;   // (N)
  std::optional<Tensor> of_pixels;  // (N, 1, H, W)
};

// One layer, and where its results go; null, and no gradients, where they are not wanted.
struct Layer {
  const Tensor& x;        // (N, C, H, W)
  const Tensor& y;        // (N or 1, C, H, W)
  const Tensor& weights;  // (C)
  double* values;         // (N)
  const Tensor* pixels;   // (N, 1, H, W)
  Tensor* dx;             // (N, C, H, W), dense in `layout`
  Tensor* dy;
  Layout layout;
};

template <class T>
class LayerWalk {
  using Acc = Accumulator<T>;

 public:
  LayerWalk(const Layer& layer, const LengthSettings& settings, const Upstream& upstream)
      : layer_(layer),
        settings_(settings),
        upstream_(upstream),
        x_(layer.x, layer.layout),
        y_(layer.y, layer.layout),
        weights_(torch::stable::contiguous(layer.weights)),
        channels_(layer.x.size(1)),
        pixels_(layer.x.size(2) * layer.x.size(3)) {}

  void run() const {
    const int64_t batch = layer_.x.size(0), step = block_pixels(layer_.layout, channels_);
    const int64_t blocks = ceil_div(pixels_, step);
    std::vector<double> partial(batch * blocks);
    torch::stable::parallel_for(0, batch * blocks, ceil_div(kGrain, step * channels_), [&](int64_t begin, int64_t end) {
      std::vector<Acc> buffer(x_.buffer_size() + y_.buffer_size());
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % blocks * step;
        partial[task] = block(task / blocks, first, std::min(step, pixels_ - first), buffer.data());
      }
    });
    if (layer_.values == nullptr) return;
    for (int64_t n = 0; n < batch; ++n) {
      layer_.values[n] = ordered_sum(partial, n * blocks, blocks) / static_cast<double>(pixels_);
    }
  }

 private:
  // Returns the sum of the block's distances.
  double block(int64_t n, int64_t first, int64_t count, Acc* buffer) const {
    const BlockShape shape{layer_.layout, channels_, count};
    const auto x = x_.read(n, first, shape, buffer), y = y_.read(n, first, shape, buffer + x_.buffer_size());
    const Acc* weights = static_cast<const Acc*>(weights_.data_ptr());
    PixelSums<Acc> sums;
    sum_squares(shape, x, y, sums);
    find_errors(shape, settings_, sums);
    sum_distances(shape, x, y, weights, sums);
    if (layer_.pixels) {
      std::copy_n(sums.distance, count, static_cast<Acc*>(layer_.pixels->data_ptr()) + n * pixels_ + first);
    }
    if (layer_.dx || layer_.dy) {
      double upstream[kMaxPixels];
      upstream_of(n, first, count, upstream);
      for (Tensor* out : {layer_.dx, layer_.dy}) {
        if (out == nullptr) continue;
        const bool by_targets = out == layer_.dy;
        GradientFactors<Acc> gradient;
        find_gradient(shape, settings_, sums, upstream, by_targets, gradient);
        store_gradient(shape, x, y, weights, sums, gradient, by_targets, rows_of(*out, n, first));
      }
    }
    return std::accumulate(sums.distance, sums.distance + count, 0.0);
  }

  void upstream_of(int64_t n, int64_t first, int64_t count, double* upstream) const {
    if (upstream_.of_pixels) {
      std::copy_n(static_cast<const Acc*>(upstream_.of_pixels->data_ptr()) + n * pixels_ + first, count, upstream);
    } else {
      std::fill_n(upstream, count, upstream_.of_samples[n] / static_cast<double>(pixels_));
    }
  }

  Rows<T> rows_of(const Tensor& out, int64_t n, int64_t first) const {
    const bool nchw = layer_.layout == Layout::kNCHW;
    return {static_cast<T*>(out.data_ptr()) + n * channels_ * pixels_ + first * (nchw ? 1 : channels_),
            nchw ? pixels_ : channels_};
  }

  const Layer& layer_;
  const LengthSettings& settings_;
  const Upstream& upstream_;
  BlockReader<T> x_, y_;
  Tensor weights_;
  int64_t channels_, pixels_;
};

void walk(const Layer& layer, const LengthSettings& settings, const Upstream& upstream) {
  if (layer.x.size(0) == 0) return;
  dispatch_dtype(layer.x, "features",
                 [&](auto element) { LayerWalk<decltype(element)>(layer, settings, upstream).run(); });
}

struct Gradients {
  std::vector<Tensor> by_features, by_targets;  // L x (N, C, H, W), or none
};

// The gradients of one layer, appended; in the same pass its values, unless null.
void append_gradients(Layer layer, const Settings& settings, const Upstream& upstream, Gradients& gradients) {
  std::optional<LikeOutput> dx, dy;
  if (settings.by_features) layer.dx = &dx.emplace(layer.x, layer.layout).dense();
  if (settings.by_targets) layer.dy = &dy.emplace(layer.x, layer.layout).dense();
  walk(layer, settings.length, upstream);
  if (dx) gradients.by_features.push_back(dx->finished());
  if (dy) gradients.by_targets.push_back(dy->finished());
}

// Values (L, N), unless null, and gradients.
Gradients distances(const std::vector<Tensor>& features,         // L x (N, C, H, W)
                    const std::vector<Tensor>& targets,          // L x (N or 1, C, H, W)
                    const std::vector<Tensor>& channel_weights,  // L x (C)
                    const Settings& settings, const Upstream& upstream, std::vector<double>* values) {
  const int64_t layers = features.size(), batch = features[0].size(0);
  if (values) values->resize(layers * batch);
  Gradients gradients;
  for (int64_t l = 0; l < layers; ++l) {
    double* value = values ? values->data() + l * batch : nullptr;
    append_gradients(
        {features[l], targets[l], channel_weights[l], value, nullptr, nullptr, nullptr, layout_of(features[l])},
        settings, upstream, gradients);
  }
  return gradients;
}

std::tuple<Tensor, Tensor> summed(const std::vector<Tensor>& features, const std::vector<double>& values) {
  return weighted_losses(features[0], values, std::vector<double>(features.size(), 1.0));
}

}  // namespace

std::tuple<Tensor, Tensor> lpips_distance_cpu(const std::vector<Tensor> features,         // L x (N, C, H, W)
                                              const std::vector<Tensor> targets,          // L x (N or 1, C, H, W)
                                              const std::vector<Tensor> channel_weights,  // L x (C)
                                              double eps, bool eps_inside) {
  check_lpips(features, targets, channel_weights);
  std::vector<double> values;
  distances(features, targets, channel_weights, {{eps, eps_inside}, false, false}, {}, &values);
  return summed(features, values);
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> lpips_distance_backward_cpu(
    const Tensor grad,                          // (N)
    const std::vector<Tensor> features,         // L x (N, C, H, W)
    const std::vector<Tensor> targets,          // L x (N or 1, C, H, W)
    const std::vector<Tensor> channel_weights,  // L x (C)
    double eps, bool eps_inside, bool by_features, bool by_targets) {
  check_lpips(features, targets, channel_weights);
  check_upstream(grad, features[0]);
  const auto [dx, dy] = distances(features, targets, channel_weights, {{eps, eps_inside}, by_features, by_targets},
                                  {to_doubles(grad), std::nullopt}, nullptr);
  return {dx, dy};
}

std::tuple<Tensor, Tensor, std::vector<Tensor>, std::vector<Tensor>> lpips_distance_with_gradient_cpu(
    const std::vector<Tensor> features,         // L x (N, C, H, W)
    const std::vector<Tensor> targets,          // L x (N or 1, C, H, W)
    const std::vector<Tensor> channel_weights,  // L x (C)
    double eps, bool eps_inside,
    const std::optional<Tensor> grad,  // (N)
    bool by_features, bool by_targets) {
  check_lpips(features, targets, channel_weights);
  if (grad) check_upstream(*grad, features[0]);
  const Upstream upstream{grad ? to_doubles(*grad) : std::vector<double>(features[0].size(0), 1.0), std::nullopt};
  std::vector<double> values;
  const auto [dx, dy] =
      distances(features, targets, channel_weights, {{eps, eps_inside}, by_features, by_targets}, upstream, &values);
  const auto [loss, per_layer] = summed(features, values);
  return {loss, per_layer, dx, dy};
}

std::vector<Tensor> lpips_map_cpu(const std::vector<Tensor> features,         // L x (N, C, H, W)
                                  const std::vector<Tensor> targets,          // L x (N or 1, C, H, W)
                                  const std::vector<Tensor> channel_weights,  // L x (C)
                                  double eps, bool eps_inside) {
  check_lpips(features, targets, channel_weights);
  std::vector<Tensor> maps;
  for (size_t l = 0; l < features.size(); ++l) {
    const Tensor& x = features[l];
    maps.push_back(torch::stable::new_empty(x, {x.size(0), 1, x.size(2), x.size(3)}, accumulator_type(x)));
    walk({x, targets[l], channel_weights[l], nullptr, &maps.back(), nullptr, nullptr, layout_of(x)}, {eps, eps_inside},
         {});
  }
  return maps;  // L x (N, 1, H, W)
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> lpips_map_backward_cpu(
    const std::vector<Tensor> grads,            // L x (N, 1, H, W)
    const std::vector<Tensor> features,         // L x (N, C, H, W)
    const std::vector<Tensor> targets,          // L x (N or 1, C, H, W)
    const std::vector<Tensor> channel_weights,  // L x (C)
    double eps, bool eps_inside, bool by_features, bool by_targets) {
  check_lpips(features, targets, channel_weights);
  check_pixel_upstream(grads, features);
  Gradients gradients;
  for (size_t l = 0; l < features.size(); ++l) {
    append_gradients(
        {features[l], targets[l], channel_weights[l], nullptr, nullptr, nullptr, nullptr, layout_of(features[l])},
        {{eps, eps_inside}, by_features, by_targets}, {{}, torch::stable::contiguous(grads[l])}, gradients);
  }
  return {gradients.by_features, gradients.by_targets};
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("lpips_distance", TORCH_BOX(&lpips_distance_cpu));
  m.impl("lpips_distance_backward", TORCH_BOX(&lpips_distance_backward_cpu));
  m.impl("lpips_distance_with_gradient", TORCH_BOX(&lpips_distance_with_gradient_cpu));
  m.impl("lpips_map", TORCH_BOX(&lpips_map_cpu));
  m.impl("lpips_map_backward", TORCH_BOX(&lpips_map_backward_cpu));
}

}  // namespace perceptual_ops
