#include "bias_relu.cuh"
#include "bias_relu.h"

namespace perceptual_ops {

cudaError_t launch_bias_relu(Element element, const MapShape& shape, void* x, const BiasPointers& bias, uint8_t* signs,
                             cudaStream_t stream) {
  const int width = width_of(shape.channels, {x, bias.narrow, bias.wide});
  if (!fits_units(shape, width)) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    dispatch_width(width, [&](auto unit) {
      using T = decltype(type);
      constexpr int kWidth = decltype(unit)::value;
      const Units units = units_of(shape, kWidth, kReluRounds<T, kWidth> * kActivationThreads);
      launch_kernel(bias_relu_kernel<T, kWidth>, shape.batch * units.blocks, kActivationThreads, 0, stream, x, bias,
                    signs, units);
    });
  });
  return cudaGetLastError();
}

cudaError_t launch_bias_relu_backward(Element element, const MapShape& shape, void* grad, const BackwardTerms& terms,
                                      cudaStream_t stream) {
  const int width = width_of(shape.channels, {grad, terms.tap, terms.below});
  if (!fits_units(shape, width)) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    dispatch_width(width, [&](auto unit) {
      using T = decltype(type);
      constexpr int kWidth = decltype(unit)::value;
      const Units units = units_of(shape, kWidth, kReluBackwardRounds<T, kWidth> * kActivationThreads);
      launch_kernel(bias_relu_backward_kernel<T, kWidth>, shape.batch * units.blocks, kActivationThreads, 0, stream,
                    grad, terms, units);
    });
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
