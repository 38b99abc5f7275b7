#include "blur.cuh"
#include "pool.h"

namespace perceptual_ops {
namespace {

// Of the maps that a pooling knows.
MapShape map_of(const Pooling& pooling, int64_t batch, int64_t channels) {
  return {batch, channels, pooling.height, pooling.width};
}
MapShape windows_of(const Pooling& pooling, int64_t batch, int64_t channels) {
  return {batch, channels, pooling.windows_height(), pooling.windows_width()};
}
MapShape result_of(const Pooling& pooling, int64_t batch, int64_t channels) {
  return {batch, channels, pooling.out_height(), pooling.out_width()};
}

}  // namespace

cudaError_t launch_bias_relu_pool(Element element, int64_t batch, int64_t channels, const Pooling& pooling,
                                  const void* x, const BiasPointers& bias, bool relu, void* pooled, uint8_t* codes,
                                  cudaStream_t stream) {
  const MapShape result = result_of(pooling, batch, channels);
  const int width = width_of(channels, {x, bias.narrow, bias.wide, pooled, codes});
  if (!fits_units(map_of(pooling, batch, channels), width) || !fits_units(result, width)) {
    return cudaErrorInvalidConfiguration;
  }
  dispatch_element(element, [&](auto type) {
    dispatch_width(width, [&](auto unit) {
      using T = decltype(type);
      constexpr int kWidth = decltype(unit)::value;
      const auto launch = [&](auto kernel, const MapShape& made, const PoolShape& shape, void* to,
                              uint8_t* of_windows) {
        const Units units = units_of(made, kWidth, kActivationThreads);
        launch_kernel(kernel, batch * units.blocks, kActivationThreads, 0, stream, x, bias, relu, to, of_windows, shape,
                      units);
      };
      const PoolShape shape = pool_shape(pooling, channels);
      dispatch_window<kWidth>(pooling, [&](auto window) {
        using W = decltype(window);
        if constexpr (W::kKind != PoolKind::kBlur) {
          launch(pool_kernel<T, kWidth, W>, result, shape, pooled, codes);
        } else if constexpr (kWidth == kGroup) {
          launch(blur_kernel<T, kWidth, W>, result, shape, pooled, codes);
        } else {
          PoolShape maxima = shape;
          maxima.stride = 1;
          const MapShape windows = windows_of(pooling, batch, channels);
          if (codes) launch(pool_kernel<T, 1, Window<PoolKind::kMax, kAny, kAny>>, windows, maxima, nullptr, codes);
          launch(blur_kernel<T, kWidth, W>, result, shape, pooled, nullptr);
        }
      });
    });
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
