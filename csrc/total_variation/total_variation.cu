#include "../common/feature_map.h"
#include "../common/launch.h"
#include "total_variation.cuh"

namespace perceptual_ops {
namespace {

// Only the two distances that a variation is made of.
template <class F>
void dispatch_variation(Distance distance, F&& f) {
  if (distance == Distance::kL1) return f(std::integral_constant<Distance, Distance::kL1>{});
  f(std::integral_constant<Distance, Distance::kSquared>{});
}

}  // namespace

int64_t total_variation_blocks(const ImageRows& rows) { return ceil_div(rows.count(), kVariationRows); }

cudaError_t launch_total_variation(Element element, const ImageRows& rows, Distance distance, const void* x,
                                   void* partial, void* values, cudaStream_t stream) {
  const int64_t blocks = total_variation_blocks(rows);
  if (!fits_grid(blocks * rows.batch) || !fits_grid(rows.count())) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    using Acc = DeviceAccumulator<T>;
    dispatch_variation(distance, [&](auto kind) {
      launch_kernel(total_variation_partial_kernel<T, decltype(kind)::value>, blocks * rows.batch, kVariationThreads, 0,
                    stream, x, rows, blocks, partial);
    });
    launch_kernel(total_variation_finish_kernel<Acc>, rows.batch, kVariationThreads, 0, stream, partial, blocks,
                  values);
  });
  return cudaGetLastError();
}

cudaError_t launch_total_variation_gradient(Element element, const ImageRows& rows, Distance distance, const void* x,
                                            const void* grad, void* dx, cudaStream_t stream) {
  const int64_t blocks = total_variation_blocks(rows);
  if (!fits_grid(blocks * rows.batch) || !fits_grid(rows.count())) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    dispatch_variation(distance, [&](auto kind) {
      launch_kernel(total_variation_gradient_kernel<T, decltype(kind)::value>, blocks * rows.batch, kVariationThreads,
                    0, stream, x, rows, blocks, grad, dx);
    });
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
