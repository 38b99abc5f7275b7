#include "l2_pool.cuh"
#include "l2_pool.h"

namespace perceptual_ops {
namespace {

// Calls launch(kWidth as a constant, shape, blocks), unless the blocks are too many to count in 32 bits.
template <class T, class F>
cudaError_t launch_tiles(const MapShape& map, int64_t stride_grad, int64_t stride_x, bool packed, F&& launch) {
  const int64_t out_height = l2_pooled(map.height), out_width = l2_pooled(map.width);
  const int64_t across = ceil_div(out_width, kL2Columns), tiles = ceil_div(out_height, kL2Rows) * across;
  const bool by_packs = packed && map.channels % kPackWidth<T> == 0;
  const int64_t groups = ceil_div(map.channels, kL2Units * (by_packs ? kPackWidth<T> : 1));
  const int64_t blocks = map.batch * tiles * groups;
  // What a tile reaches over the border, too.
  const int64_t beyond = 2 * (kL2Rows + kL2Columns) + kL2Units * kPackWidth<T>;
  if (!fits_grid(blocks) || !fits_grid(map.height + beyond) || !fits_grid(map.width + beyond) ||
      !fits_grid(map.channels + beyond)) {
    return cudaErrorInvalidConfiguration;
  }
  const L2Shape shape{stride_x,
                      stride_grad,
                      static_cast<int>(map.height),
                      static_cast<int>(map.width),
                      static_cast<int>(map.channels),
                      static_cast<int>(out_height),
                      static_cast<int>(out_width),
                      static_cast<uint32_t>(across),
                      static_cast<uint32_t>(tiles),
                      static_cast<uint32_t>(groups)};
  if (by_packs) {
    launch(std::integral_constant<int, kPackWidth<T>>{}, shape, blocks);
  } else {
    launch(std::integral_constant<int, 1>{}, shape, blocks);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_l2_pool(Element element, const MapShape& map, const void* x, int64_t stride_x, void* pooled,
                           cudaStream_t stream) {
  cudaError_t status = cudaSuccess;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    const bool packed = begins_packed<T>(x, map.batch, stride_x) && begins_packed<T>(pooled);
    status = launch_tiles<T>(map, 0, stride_x, packed, [&](auto width, const L2Shape& shape, int64_t blocks) {
      launch_kernel(l2_pool_kernel<T, decltype(width)::value>, blocks, kActivationThreads, 0, stream, x, pooled, shape);
    });
  });
  return status;
}

cudaError_t launch_l2_pool_backward(Element element, const MapShape& map, const void* grad, int64_t stride_grad,
                                    const void* x, int64_t stride_x, void* dx, cudaStream_t stream) {
  cudaError_t status = cudaSuccess;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    const bool packed = begins_packed<T>(grad, map.batch, stride_grad) && begins_packed<T>(x, map.batch, stride_x) &&
                        begins_packed<T>(dx);
    status = launch_tiles<T>(map, stride_grad, stride_x, packed, [&](auto width, const L2Shape& shape, int64_t blocks) {
      launch_kernel(l2_pool_backward_kernel<T, decltype(width)::value>, blocks, kActivationThreads, 0, stream, grad, x,
                    dx, shape);
    });
  });
  return status;
}

}  // namespace perceptual_ops
