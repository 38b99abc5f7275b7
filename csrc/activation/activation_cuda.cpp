// The activations of a trunk on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "../common/torch_cuda.h"
#include "arguments.h"
#include "bias_relu.h"
#include "normalize.h"
#include "pool.h"

namespace perceptual_ops {
namespace {

MapShape shape_of(const Tensor& x) {  // (N, C, H, W)
  return {x.size(0), x.size(1), x.size(2), x.size(3)};
}

MapStrides strides_of(const Tensor& x) {  // (N, C, H, W)
  return {x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
}

// An argument as the kernels read it, or null; holds the copy, if there is one, alive.
class Operand {
 public:
  // In memory order.
  static Operand vector(const std::optional<Tensor>& x) {  // (N) or (C), or (N, bytes)
    return Operand(x ? std::optional(torch::stable::contiguous(*x)) : std::nullopt);
  }
  // The same in one dtype.
  static Operand vector(const Tensor& x, ScalarType dtype) {  // (C)
    return vector(x.scalar_type() == dtype ? x : torch::stable::to(x, dtype));
  }
  // Channels_last, nothing between its samples.
  static Operand map(const std::optional<Tensor>& x) {  // (N, C, H, W)
    if (!x || is_dense(*x)) return Operand(x);
    return Operand(torch::stable::contiguous(*x, memory_format(Layout::kNHWC)));
  }

  const void* data() const { return tensor_ ? tensor_->data_ptr() : nullptr; }
  const uint8_t* bytes() const { return static_cast<const uint8_t*>(data()); }

 private:
  explicit Operand(std::optional<Tensor> tensor) : tensor_(std::move(tensor)) {}

  static bool is_dense(const Tensor& x) {
    const bool samples_follow = x.size(0) <= 1 || x.stride(0) == x.size(1) * x.size(2) * x.size(3);
    return samples_follow && has_dense_samples(x, Layout::kNHWC);
  }

  std::optional<Tensor> tensor_;
};

// A bias in the dtype of the maps or of their sums; any other is converted to the latter.
struct BiasOperand {
  Operand operand;
  bool narrow;

  static BiasOperand of(const std::optional<Tensor>& bias, const Tensor& x) {  // (C); (N, C, H, W)
    if (!bias) return {Operand::vector(bias), true};
    check_channels(*bias, "bias", x);
    const bool narrow = bias->scalar_type() == x.scalar_type();
    return {Operand::vector(*bias, narrow ? x.scalar_type() : accumulator_type(x)), narrow};
  }
  BiasPointers pointers() const { return {narrow ? operand.data() : nullptr, narrow ? nullptr : operand.data()}; }
};

Tensor empty_bytes(const Tensor& like, std::vector<int64_t> sizes) {
  return torch::stable::new_empty(like, sizes, ScalarType::Byte);
}

void* pointer_if(const Tensor& x, bool wanted) { return wanted ? x.data_ptr() : nullptr; }

}  // namespace

Tensor normalize_images_cuda(const Tensor images,  // (N, C, H, W)
                             const Tensor scale,   // (C)
                             const Tensor shift,   // (C)
                             ScalarType dtype) {
  check_map(images, "images");
  check_scale(scale, "scale", images);
  check_scale(shift, "shift", images);
  const CudaScope cuda(images);
  const Element image_element = element_of(images, "images");
  const Tensor out = empty_channels_last(images, images.sizes().vec(), dtype);
  const Element element = element_of(out, "dtype");
  const bool wide = images.scalar_type() == ScalarType::Double || dtype == ScalarType::Double;
  const ScalarType accumulator = wide ? ScalarType::Double : ScalarType::Float;
  const Operand scales = Operand::vector(scale, accumulator), shifts = Operand::vector(shift, accumulator);
  if (images.size(0) > 0) {
    check_launch(launch_normalize(image_element, element, shape_of(images), images.data_ptr(), strides_of(images),
                                  scales.data(), shifts.data(), out.data_ptr(), cuda.stream()),
                 "normalize_images");
  }
  return out;  // (N, C, H, W)
}

Tensor normalize_images_backward_cuda(const Tensor grad,                   // (N, C, H, W)
                                      const Tensor images,                 // (N, C, H, W)
                                      const Tensor scale,                  // (C)
                                      const std::optional<Tensor> factor,  // (N)
                                      const std::optional<Tensor> add) {   // (N, C, H, W)
  check_map(images, "images");
  check_shape(grad, "grad", images);
  check_scale(scale, "scale", images);
  check_factor(factor, grad);
  if (add) check_shape(*add, "add", images);
  const CudaScope cuda(images);
  const ScalarType accumulator = accumulator_type(grad);
  const Tensor out = empty_like_in(images, accumulator);
  const Operand dense = Operand::map(grad), scales = Operand::vector(scale, accumulator);
  const Operand factors = Operand::vector(factor);
  std::optional<Tensor> added = add;
  if (add && add->scalar_type() != accumulator) added = torch::stable::to(*add, accumulator);
  if (images.size(0) > 0) {
    check_launch(launch_normalize_backward(element_of(grad, "grad"), shape_of(images), dense.data(), scales.data(),
                                           factors.data(), added ? added->data_ptr() : nullptr,
                                           added ? strides_of(*added) : MapStrides{}, out.data_ptr(), strides_of(out),
                                           cuda.stream()),
                 "normalize_images_backward");
  }
  return out;  // (N, C, H, W), fp32, or fp64 for fp64
}

Tensor bias_relu_cuda(const Tensor x,                    // (N, C, H, W)
                      const std::optional<Tensor> bias,  // (C)
                      bool signs) {
  check_written(x, "x");
  const CudaScope cuda(x);
  const BiasOperand biases = BiasOperand::of(bias, x);
  const Tensor bits = signs ? empty_bytes(x, {x.size(0), sign_bytes(x)}) : empty_bytes(x, {0});
  if (x.size(0) > 0) {
    check_launch(launch_bias_relu(element_of(x, "x"), shape_of(x), x.data_ptr(), biases.pointers(),
                                  static_cast<uint8_t*>(pointer_if(bits, signs)), cuda.stream()),
                 "bias_relu_");
  }
  return bits;  // (N, ceil(C H W / 8)), or (0)
}

void bias_relu_backward_cuda(const Tensor grad,                     // (N, C, H, W)
                             const Tensor signs,                    // (N, ceil(C H W / 8))
                             const std::optional<Tensor> tap,       // (N, C, H, W)
                             const std::optional<Tensor> below,     // (N, C, H, W)
                             const std::optional<Tensor> factor,    // (N)
                             const std::optional<Tensor> maxima) {  // (N)
  check_written(grad, "grad");
  check_terms(signs, tap, below, factor, maxima, grad);
  const CudaScope cuda(grad);
  const Operand bits = Operand::vector(signs), taps = Operand::map(tap), others = Operand::map(below);
  const Operand factors = Operand::vector(factor);
  if (grad.size(0) > 0) {
    const BackwardTerms terms{bits.bytes(), taps.data(), others.data(), factors.data(),
                              maxima ? maxima->data_ptr() : nullptr};
    check_launch(
        launch_bias_relu_backward(element_of(grad, "grad"), shape_of(grad), grad.data_ptr(), terms, cuda.stream()),
        "bias_relu_backward_");
  }
}

std::tuple<Tensor, Tensor> bias_relu_pool_cuda(const Tensor x,                    // (N, C, H, W)
                                               const std::optional<Tensor> bias,  // (C)
                                               bool relu, const Name kind, int64_t kernel, int64_t stride, bool codes) {
  check_map(x, "x");
  const Pooling pooling = checked_pooling(x, kind, kernel, stride);
  const CudaScope cuda(x);
  const int64_t batch = x.size(0), channels = x.size(1);
  const Element element = element_of(x, "x");
  const Operand dense = Operand::map(x);
  const BiasOperand biases = BiasOperand::of(bias, x);
  const Tensor out =
      empty_channels_last(x, {batch, channels, pooling.out_height(), pooling.out_width()}, x.scalar_type());
  const bool has_codes = codes && pooling.kind != PoolKind::kAverage;
  const Tensor found = has_codes ? empty_bytes(x, {batch, pooling.code_bytes(channels)}) : empty_bytes(x, {0});
  if (batch > 0) {
    check_launch(
        launch_bias_relu_pool(element, batch, channels, pooling, dense.data(), biases.pointers(), relu, out.data_ptr(),
                              static_cast<uint8_t*>(pointer_if(found, has_codes)), cuda.stream()),
        "bias_relu_pool");
  }
  return {out, found};  // (N, C, H', W'), (N, bytes) or (0)
}

std::tuple<Tensor, Tensor, Tensor> bias_relu_pool_in_place_cuda(const Tensor x,                    // (N, C, H, W)
                                                                const std::optional<Tensor> bias,  // (C)
                                                                const Name kind, int64_t kernel, int64_t stride,
                                                                bool keep) {
  check_written(x, "x");
  const Pooling pooling = checked_pooling(x, kind, kernel, stride);
  const CudaScope cuda(x);
  const int64_t batch = x.size(0), channels = x.size(1);
  const BiasOperand biases = BiasOperand::of(bias, x);
  const Tensor out =
      empty_channels_last(x, {batch, channels, pooling.out_height(), pooling.out_width()}, x.scalar_type());
  const bool has_codes = keep && pooling.kind != PoolKind::kAverage;
  const Tensor bits = keep ? empty_bytes(x, {batch, sign_bytes(x)}) : empty_bytes(x, {0});
  const Tensor found = has_codes ? empty_bytes(x, {batch, pooling.code_bytes(channels)}) : empty_bytes(x, {0});
  if (batch > 0) {
    check_launch(
        launch_bias_relu_pool_in_place(element_of(x, "x"), batch, channels, pooling, x.data_ptr(), biases.pointers(),
                                       out.data_ptr(), static_cast<uint8_t*>(pointer_if(bits, keep)),
                                       static_cast<uint8_t*>(pointer_if(found, has_codes)), cuda.stream()),
        "bias_relu_pool_");
  }
  return {out, bits, found};  // (N, C, H', W'), (N, ceil(C H W / 8)) or (0), (N, bytes) or (0)
}

void bias_relu_pool_backward_cuda(const Tensor x,                     // (N, C, H, W)
                                  const Tensor grad,                  // (N, C, H', W')
                                  const std::optional<Tensor> codes,  // (N, bytes)
                                  const std::optional<Tensor> signs,  // (N, ceil(C H W / 8))
                                  bool tap,
                                  const std::optional<Tensor> below,   // (N, C, H, W)
                                  const std::optional<Tensor> factor,  // (N)
                                  const Name kind, int64_t kernel, int64_t stride,
                                  const std::optional<Tensor> maxima) {  // (N)
  check_written(x, "x");
  const Pooling pooling = checked_pooling(x, kind, kernel, stride);
  check_pooled(grad, codes, x, pooling);
  check_terms(signs, std::nullopt, below, factor, maxima, x);
  const CudaScope cuda(x);
  const Operand dense = Operand::map(grad), others = Operand::map(below);
  const Operand found = Operand::vector(pooling.kind == PoolKind::kAverage ? std::nullopt : codes);
  const Operand bits = Operand::vector(signs), factors = Operand::vector(factor);
  if (x.size(0) > 0) {
    const BackwardTerms terms{bits.bytes(), tap ? x.data_ptr() : nullptr, others.data(), factors.data(),
                              maxima ? maxima->data_ptr() : nullptr};
    check_launch(launch_bias_relu_pool_backward(element_of(x, "x"), x.size(0), x.size(1), pooling, x.data_ptr(),
                                                dense.data(), found.bytes(), terms, cuda.stream()),
                 "bias_relu_pool_backward_");
  }
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("normalize_images", TORCH_BOX(&normalize_images_cuda));
  m.impl("normalize_images_backward", TORCH_BOX(&normalize_images_backward_cuda));
  m.impl("bias_relu_", TORCH_BOX(&bias_relu_cuda));
  m.impl("bias_relu_backward_", TORCH_BOX(&bias_relu_backward_cuda));
  m.impl("bias_relu_pool", TORCH_BOX(&bias_relu_pool_cuda));
  m.impl("bias_relu_pool_", TORCH_BOX(&bias_relu_pool_in_place_cuda));
  m.impl("bias_relu_pool_backward_", TORCH_BOX(&bias_relu_pool_backward_cuda));
}

}  // namespace perceptual_ops
