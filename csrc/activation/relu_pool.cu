#include "bias_relu.h"
#include "pool.h"
#include "relu_pool.cuh"

namespace perceptual_ops {
namespace {

// Whether the windows are the cells of relu_pool.cuh.
bool are_cells(const Pooling& pooling) {
  return pooling.kind != PoolKind::kBlur && pooling.kernel == kCell && pooling.stride == kCell;
}

}  // namespace

cudaError_t launch_bias_relu_pool_in_place(Element element, int64_t batch, int64_t channels, const Pooling& pooling,
                                           void* x, const BiasPointers& bias, void* pooled, uint8_t* signs,
                                           uint8_t* codes, cudaStream_t stream) {
  const MapShape map{batch, channels, pooling.height, pooling.width};
  if (!are_cells(pooling) || width_of(channels, {x, bias.narrow, bias.wide, pooled, codes}) != kGroup) {
    const cudaError_t error = launch_bias_relu(element, map, x, bias, signs, stream);
    if (error != cudaSuccess) return error;
    return launch_bias_relu_pool(element, batch, channels, pooling, x, {}, false, pooled, codes, stream);
  }
  if (!fits_units(map, kGroup)) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    const Cells cells = cells_of(map);
    const auto launch = [&](auto kernel) {
      launch_kernel(kernel, batch * cells.blocks, kActivationThreads, 0, stream, x, bias, pooled, signs, codes,
                    pool_shape(pooling, channels), cells);
    };
    const bool is_max = pooling.kind == PoolKind::kMax;
    launch(is_max ? relu_pool_kernel<T, PoolKind::kMax> : relu_pool_kernel<T, PoolKind::kAverage>);
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
