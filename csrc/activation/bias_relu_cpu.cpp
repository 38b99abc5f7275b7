// bias_relu_ and its backward on the CPU: pointwise walks over blocks of a sample in NHWC order.
#include "arguments.h"
#include "channels_cpu.h"
#include "masked_cpu.h"
#include "packed_cpu.h"

namespace perceptual_ops {
namespace {

// x = relu(x + bias), and where it is not zero.
template <class T>
PO_INLINE void relu_walk(T* x, const Accumulator<T>* bias, int64_t count, uint8_t* passes) {
  using Acc = Accumulator<T>;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Acc value = static_cast<Acc>(x[i]) + bias[i];
    const bool positive = !(value <= 0);  // or NaN
    store_rounded(x[i], positive ? value : Acc(0));
    passes[i] = positive;
  }
}

// Clones cannot be templates.
#define PO_RELU_BLOCK(T)                                                                            \
  PO_CPU_CLONES void relu_block(T* x, const Accumulator<T>* bias, int64_t count, uint8_t* passes) { \
    relu_walk(x, bias, count, passes);                                                              \
  }
PO_RELU_BLOCK(float)
PO_RELU_BLOCK(double)
PO_RELU_BLOCK(Half)
PO_RELU_BLOCK(BFloat16)

}  // namespace

Tensor bias_relu_cpu(const Tensor x,                    // (N, C, H, W)
                     const std::optional<Tensor> bias,  // (C)
                     bool signs) {
  check_written(x, "x");
  if (bias) check_channels(*bias, "bias", x);
  const int64_t batch = x.size(0), channels = x.size(1), sample_size = channels * x.size(2) * x.size(3);
  const Tensor packed = signs ? torch::stable::new_empty(x, {batch, sign_bytes(x)}, ScalarType::Byte)
                              : torch::stable::new_empty(x, {0}, ScalarType::Byte);
  uint8_t* bits = static_cast<uint8_t*>(packed.data_ptr());
  dispatch_dtype(x, "x", [&](auto element) {
    using T = decltype(element);
    T* data = static_cast<T*>(x.data_ptr());
    const auto biases = repeated<Accumulator<T>>(bias, channels, channels + kBlock);
    for_each_block(batch, sample_size, [&](int64_t n, int64_t first, int64_t count) {
      uint8_t passes[unpacked_size(kBlock)];
      relu_block(data + n * sample_size + first, &biases[first % channels], count, passes);
      if (signs) pack_signs(passes, count, bits + n * sign_bytes(x) + first / 8);
    });
  });
  return packed;  // (N, ceil(C H W / 8)), or (0)
}

void bias_relu_backward_cpu(const Tensor grad,                     // (N, C, H, W)
                            const Tensor signs,                    // (N, ceil(C H W / 8))
                            const std::optional<Tensor> tap,       // (N, C, H, W)
                            const std::optional<Tensor> below,     // (N, C, H, W)
                            const std::optional<Tensor> factor,    // (N)
                            const std::optional<Tensor> maxima) {  // (N)
  check_written(grad, "grad");
  check_terms(signs, tap, below, factor, maxima, grad);
  const int64_t batch = grad.size(0), sample_size = grad.size(1) * grad.size(2) * grad.size(3);
  const int64_t blocks = ceil_div(sample_size, kBlock);
  std::vector<uint64_t> largest(batch * blocks);
  dispatch_dtype(grad, "grad", [&](auto element) {
    using T = decltype(element);
    const T* data = static_cast<const T*>(grad.data_ptr());
    const Masked<T> masked(grad, signs, tap, below, factor, 1.0);
    for_each_block(batch, sample_size, [&](int64_t n, int64_t first, int64_t count) {
      largest[n * blocks + first / kBlock] = masked.store(n, first, count, data + n * sample_size + first);
    });
  });
  raise_maxima(grad, largest, maxima);
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("bias_relu_", TORCH_BOX(&bias_relu_cpu));
  m.impl("bias_relu_backward_", TORCH_BOX(&bias_relu_backward_cpu));
}

}  // namespace perceptual_ops
