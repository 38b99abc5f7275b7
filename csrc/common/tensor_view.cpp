#include "tensor_view.h"

#include <array>

namespace perceptual_ops {

std::optional<FeatureMap> feature_map(const Tensor& x) {  // (N, C, H, W)
  const int64_t height = x.size(2), width = x.size(3);
  FeatureMap map{x.size(0), x.size(1), height * width, x.stride(0), x.stride(1), x.stride(3)};
  if (map.batch * map.channels * map.pixels == 0) {
    map.stride_c = map.pixels;
    map.stride_p = 1;
    return map;
  }
  if (width == 1) map.stride_p = x.stride(2);
  const bool rows_follow = height == 1 || width == 1 || x.stride(2) == width * x.stride(3);
  if (map.pixels == 1) map.stride_p = 1;
  if (map.channels == 1) map.stride_c = map.stride_p == 1 ? map.pixels : 1;
  const bool nchw = map.stride_p == 1 && map.stride_c >= map.pixels;
  const bool nhwc = map.stride_c == 1 && map.stride_p >= map.channels;
  if (!rows_follow || !(nchw || nhwc)) return std::nullopt;
  return map;
}

Layout layout_of(const Tensor& x) {
  const auto map = feature_map(x);
  return map ? map->layout() : Layout::kNCHW;
}

Tensor served(const Tensor& x) { return feature_map(x) ? x : torch::stable::contiguous(x); }

Tensor served_as(const Tensor& x, Layout layout) {
  const auto map = feature_map(x);
  return map && map->layout() == layout ? x : torch::stable::contiguous(x, memory_format(layout));
}

bool has_dense_samples(const Tensor& x, Layout layout) {
  const auto map = feature_map(x);
  if (!map) return false;
  const bool one_channel = map->channels == 1, one_pixel = map->pixels == 1;
  return layout == Layout::kNCHW ? map->stride_p == 1 && (one_channel || map->stride_c == map->pixels)
                                 : (one_channel || map->stride_c == 1) && (one_pixel || map->stride_p == map->channels);
}

Tensor dense_samples(const Tensor& x, Layout layout) {
  return has_dense_samples(x, layout) ? x : torch::stable::contiguous(x, memory_format(layout));
}

Tensor empty_like_in(const Tensor& x, ScalarType dtype) {
  using torch::stable::detail::from;
  const std::nullopt_t none = std::nullopt;
  std::array<StableIValue, 6> stack{from(x),   from(std::optional(dtype)), from(none), from(none), from(none),
                                    from(none)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor empty_channels_last(const Tensor& x, std::vector<int64_t> sizes, ScalarType dtype) {
  return torch::stable::empty(sizes, dtype, std::nullopt, x.device(), std::nullopt, memory_format(Layout::kNHWC));
}

LikeOutput::LikeOutput(const Tensor& x, Layout layout) : out_(torch::stable::empty_like(x)) {
  const bool samples_follow = out_.size(0) <= 1 || out_.stride(0) == out_.size(1) * out_.size(2) * out_.size(3);
  if (samples_follow && has_dense_samples(out_, layout)) return;
  temporary_ = torch::stable::empty(out_.sizes(), out_.scalar_type(), std::nullopt, out_.device(), std::nullopt,
                                    memory_format(layout));
}

}  // namespace perceptual_ops
