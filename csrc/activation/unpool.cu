#include "pool.h"
#include "unpool_cells.cuh"

namespace perceptual_ops {

cudaError_t launch_bias_relu_pool_backward(Element element, int64_t batch, int64_t channels, const Pooling& pooling,
                                           void* x, const void* grad, const uint8_t* codes, const BackwardTerms& terms,
                                           cudaStream_t stream) {
  const MapShape map{batch, channels, pooling.height, pooling.width};
  const MapShape result{batch, channels, pooling.out_height(), pooling.out_width()};
  const int width = width_of(channels, {x, grad, codes, terms.tap, terms.below});
  if (!fits_units(map, width) || !fits_units(result, width)) return cudaErrorInvalidConfiguration;
  const PoolShape shape = pool_shape(pooling, channels);
  dispatch_element(element, [&](auto type) {
    dispatch_width(width, [&](auto unit) {
      using T = decltype(type);
      constexpr int kWidth = decltype(unit)::value;
      dispatch_window<kWidth>(pooling, [&](auto window) {
        using W = decltype(window);
        if constexpr (W::kKernel == kAny) {
          const Units units = units_of(map, kWidth, kActivationThreads);
          launch_kernel(pool_backward_kernel<T, kWidth, W>, batch * units.blocks, kActivationThreads, 0, stream, x,
                        grad, codes, terms, shape, units);
        } else {
          const Cells cells = cells_of(map);
          launch_kernel(pool_backward_cell_kernel<T, W>, batch * cells.blocks, kActivationThreads, 0, stream, x, grad,
                        codes, terms, shape, cells);
        }
      });
    });
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
