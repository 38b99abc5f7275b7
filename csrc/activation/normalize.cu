#include "../common/feature_map.h"
#include "../common/launch.h"
#include "normalize.cuh"
#include "normalize.h"

namespace perceptual_ops {
namespace {

Pixels pixels_of(const MapShape& shape) {
  const int64_t count = shape.height * shape.width;
  return {static_cast<int>(shape.channels), static_cast<uint32_t>(shape.width), static_cast<uint32_t>(count),
          static_cast<uint32_t>(ceil_div(count, kPixelThreads))};
}

bool fits_pixels(const MapShape& shape) {
  const int64_t count = shape.height * shape.width;
  return fits_grid(count + kPixelThreads) && fits_grid(shape.channels) &&
         fits_grid(shape.batch * ceil_div(count, kPixelThreads));
}

// Calls f(std::integral_constant<int, kTogether>).
template <class F>
void dispatch_together(int64_t channels, F&& f) {
  if (channels % kColours == 0) return f(std::integral_constant<int, kColours>{});
  f(std::integral_constant<int, 1>{});
}

}  // namespace

cudaError_t launch_normalize(Element image_element, Element element, const MapShape& shape, const void* images,
                             const MapStrides& strides, const void* scale, const void* shift, void* result,
                             cudaStream_t stream) {
  if (!fits_pixels(shape)) return cudaErrorInvalidConfiguration;
  const Pixels pixels = pixels_of(shape);
  dispatch_element(image_element, [&](auto in) {
    dispatch_element(element, [&](auto out) {
      dispatch_together(shape.channels, [&](auto together) {
        launch_kernel(normalize_kernel<decltype(in), decltype(out), decltype(together)::value>,
                      shape.batch * pixels.blocks, kPixelThreads, 0, stream, images, strides, scale, shift, result,
                      pixels);
      });
    });
  });
  return cudaGetLastError();
}

cudaError_t launch_normalize_backward(Element element, const MapShape& shape, const void* grad, const void* scale,
                                      const void* factor, const void* add, const MapStrides& add_strides, void* result,
                                      const MapStrides& result_strides, cudaStream_t stream) {
  if (!fits_pixels(shape)) return cudaErrorInvalidConfiguration;
  const Pixels pixels = pixels_of(shape);
  dispatch_element(element, [&](auto type) {
    dispatch_together(shape.channels, [&](auto together) {
      launch_kernel(normalize_backward_kernel<decltype(type), decltype(together)::value>, shape.batch * pixels.blocks,
                    kPixelThreads, 0, stream, grad, scale, factor, add, add_strides, result, result_strides, pixels);
    });
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
