#include <algorithm>

#include "../common/launch.h"
#include "gram.cuh"
#include "gram.h"

namespace perceptual_ops {
namespace {

// Tiles on or below the diagonal.
int64_t triangle_tiles(int64_t channels) {
  const int64_t side = ceil_div(channels, kTile);
  return side * (side + 1) / 2;
}

}  // namespace

int64_t gram_splits(const FeatureMap& map) {
  constexpr int64_t kBlocksWanted = 1024;  // several for each SM of the largest device
  constexpr int64_t kLeastPixels = 512;    // below this a split costs more in partial sums than it gains
  const int64_t blocks = triangle_tiles(map.channels) * map.batch;
  return std::clamp<int64_t>(ceil_div(kBlocksWanted, blocks), 1, ceil_div(map.pixels, kLeastPixels));
}

cudaError_t launch_gram(Element element, const FeatureMap& map, const void* x, void* partial, void* gram, double scale,
                        cudaStream_t stream) {
  const int64_t tiles = triangle_tiles(map.channels), splits = gram_splits(map);
  const int64_t pixels_per_split = ceil_div(ceil_div(map.pixels, splits), kDepth) * kDepth;
  if (!fits_grid(tiles * splits * map.batch) || !fits_grid(map.batch * map.channels))
    return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    using Acc = DeviceAccumulator<T>;
    const auto kernel = map.layout() == Layout::kNHWC ? gram_partial_kernel<T, true> : gram_partial_kernel<T, false>;
    launch_kernel(kernel, tiles * splits * map.batch, kTileThreads, 0, stream, x, map, tiles, splits, pixels_per_split,
                  partial);
    launch_kernel(gram_finish_kernel<Acc>, map.batch * map.channels, kRowThreads, 0, stream, partial, splits, map.batch,
                  map.channels, scale, gram);
  });
  return cudaGetLastError();
}

cudaError_t launch_style_distance(Element element, int64_t batch, int64_t channels, int64_t target_batch,
                                  const void* gram, const void* targets, const StyleDistance& style, void* slopes,
                                  void* values, void* loss, cudaStream_t stream) {
  const int64_t area = channels * channels, target_stride = target_batch == 1 ? 0 : area;
  if (!fits_grid(batch * channels)) return cudaErrorInvalidConfiguration;
  const auto launch = [&](auto accumulator) {
    using Acc = decltype(accumulator);
    dispatch_distance(style.distance, [&](auto distance) {
      constexpr Distance kDistance = decltype(distance)::value;
      launch_kernel(style_value_kernel<Acc, kDistance>, batch, kSumThreads, 0, stream, gram, targets, area,
                    target_stride, style.parameter, style.value_scale, style.weight, style.first_layer, values, loss);
      launch_kernel(style_slope_kernel<Acc, kDistance>, batch * channels, kRowThreads, 0, stream, gram, targets,
                    channels, target_stride, style.parameter, style.slope_scale, slopes);
    });
  };
  element == Element::kFloat64 ? launch(double{}) : launch(float{});
  return cudaGetLastError();
}

cudaError_t launch_symmetrise(Element element, int64_t batch, int64_t channels, const void* slopes, double scale,
                              void* symmetric, cudaStream_t stream) {
  if (!fits_grid(batch * channels)) return cudaErrorInvalidConfiguration;
  const auto launch = [&](auto accumulator) {
    using Acc = decltype(accumulator);
    launch_kernel(symmetrise_kernel<Acc>, batch * channels, kRowThreads, 0, stream, slopes, channels, scale, symmetric);
  };
  element == Element::kFloat64 ? launch(double{}) : launch(float{});
  return cudaGetLastError();
}

cudaError_t launch_gram_gradient(Element element, const FeatureMap& map, const void* symmetric, const void* grad,
                                 const void* x, const FeatureMap& dx_map, void* dx, cudaStream_t stream) {
  const int64_t pixel_tiles = ceil_div(map.pixels, kTile), channel_tiles = ceil_div(map.channels, kTile);
  if (!fits_grid(pixel_tiles * channel_tiles * map.batch)) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    const auto kernel = map.layout() == Layout::kNHWC ? gram_gradient_kernel<T, true> : gram_gradient_kernel<T, false>;
    launch_kernel(kernel, pixel_tiles * channel_tiles * map.batch, kTileThreads, 0, stream, symmetric, grad, x, map,
                  dx_map, pixel_tiles, channel_tiles, dx);
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
