// Checks of the arguments of the activation operators, the same for every backend.
#pragma once

#include <optional>
#include <string>

#include "../common/layers.h"
#include "l2_pooling.h"
#include "pooling.h"

namespace perceptual_ops {

inline void check_float(const Tensor& x, const char* argument) {
  dispatch_dtype(x, argument, [](auto) {});
}

// A map that is written in place: channels_last, nothing between its samples.
inline void check_written(const Tensor& x, const char* argument) {  // (N, C, H, W)
  check_map(x, argument);
  check_float(x, argument);
  const bool samples_follow = x.size(0) <= 1 || x.stride(0) == x.size(1) * x.size(2) * x.size(3);
  check(x.numel() == 0 || (samples_follow && has_dense_samples(x, Layout::kNHWC)), argument,
        ": it is written in place and must be dense in channels_last, call .contiguous("
        "memory_format=torch.channels_last) before");
}

// One number a channel.
inline void check_channels(const Tensor& numbers, const char* argument,  // (C)
                           const Tensor& x) {                            // (N, C, H, W)
  check(numbers.dim() == 1 && numbers.size(0) == x.size(1), argument, ": expected (", x.size(1),
        "), a number for each channel");
  check_float(numbers, argument);
  check(numbers.device() == x.device(), argument, ": expected the map's device");
}

inline void check_scale(const Tensor& numbers, const char* argument,  // (C)
                        const Tensor& images) {                       // (N, C, H, W)
  check_channels(numbers, argument, images);
  check(numbers.scalar_type() == ScalarType::Float || numbers.scalar_type() == ScalarType::Double, argument,
        ": expected dtype float32 or float64");
}

// A map of x's shape and any float dtype.
inline void check_shape(const Tensor& map, const char* argument,  // (N, C, H, W)
                        const Tensor& x) {                        // (N, C, H, W)
  check(map.dim() == 4 && map.size(0) == x.size(0) && map.size(1) == x.size(1) && map.size(2) == x.size(2) &&
            map.size(3) == x.size(3),
        argument, ": expected (", x.size(0), ", ", x.size(1), ", ", x.size(2), ", ", x.size(3), ")");
  check_float(map, argument);
  check(map.device() == x.device(), argument, ": expected the device of the other map");
}

// A map like x but for its strides.
inline void check_like(const std::optional<Tensor>& map, const char* argument,  // (N, C, H, W)
                       const Tensor& x) {                                       // (N, C, H, W)
  if (!map) return;
  check_shape(*map, argument, x);
  check(map->scalar_type() == x.scalar_type(), argument, ": expected the dtype of the map that is written");
}

// One number a sample, in the accumulation type.
inline void check_factor(const std::optional<Tensor>& factor,  // (N)
                         const Tensor& x) {                    // (N, C, H, W)
  if (!factor) return;
  check(factor->dim() == 1 && factor->size(0) == x.size(0), "factor: expected (", x.size(0), ")");
  check(factor->scalar_type() == accumulator_type(x) && factor->device() == x.device(),
        "factor: expected float32 (float64 for float64 maps) on the map's device");
}

// The largest magnitudes so far, which are raised.
inline void check_maxima(const std::optional<Tensor>& maxima,  // (N)
                         const Tensor& x) {                    // (N, C, H, W)
  if (!maxima) return;
  check(maxima->dim() == 1 && maxima->size(0) == x.size(0) && maxima->is_contiguous(), "maxima: expected (", x.size(0),
        "), contiguous");
  check(maxima->scalar_type() == accumulator_type(x) && maxima->device() == x.device(),
        "maxima: expected float32 (float64 for float64 maps) on the map's device");
}

// Signs or codes as the forward pass left them.
inline void check_bytes(const Tensor& bytes, const char* argument, int64_t per_sample,  // (N, per_sample)
                        const Tensor& x) {                                              // (N, C, H, W)
  check(bytes.dim() == 2 && bytes.size(0) == x.size(0) && bytes.size(1) == per_sample, argument, ": expected (",
        x.size(0), ", ", per_sample, ")");
  check(bytes.scalar_type() == ScalarType::Byte && bytes.device() == x.device(), argument,
        ": expected dtype uint8 on the map's device");
}

inline int64_t sign_bytes(const Tensor& x) {  // (N, C, H, W)
  return ceil_div(x.size(1) * x.size(2) * x.size(3), 8);
}

// What a backward through a ReLU takes beside the gradient.
inline void check_terms(const std::optional<Tensor>& signs,   // (N, ceil(C H W / 8))
                        const std::optional<Tensor>& tap,     // (N, C, H, W)
                        const std::optional<Tensor>& below,   // (N, C, H, W)
                        const std::optional<Tensor>& factor,  // (N)
                        const std::optional<Tensor>& maxima,  // (N)
                        const Tensor& x) {                    // (N, C, H, W)
  if (signs) check_bytes(*signs, "signs", sign_bytes(x), x);
  check_like(tap, "tap", x);
  check_like(below, "below", x);
  check_factor(factor, x);
  check_maxima(maxima, x);
}

inline PoolKind pool_kind(const std::string& name) {
  if (name == "max") return PoolKind::kMax;
  if (name == "average") return PoolKind::kAverage;
  check(name == "blur", "kind: expected max, average or blur, got ", name);
  return PoolKind::kBlur;
}

inline Pooling checked_pooling(const Tensor& x,  // (N, C, H, W)
                               const std::string& kind, int64_t kernel, int64_t stride) {
  const Pooling pooling{pool_kind(kind), kernel, stride, x.size(2), x.size(3)};
  check(kernel >= 1 && kernel <= Pooling::kLargestKernel, "kernel: expected 1 to ", Pooling::kLargestKernel, ", got ",
        kernel);
  check(stride >= 1, "stride: expected at least 1, got ", stride);
  // A border of two pixels is reflected at the third.
  const int64_t least = kernel + (pooling.kind == PoolKind::kBlur ? Pooling::kBlurPadding : 0);
  check(x.size(2) >= least && x.size(3) >= least, "x: expected at least ", least, " pixels on each side for kernel ",
        kernel, " and kind ", kind, ", got ", x.size(2), " x ", x.size(3));
  return pooling;
}

// What a pooling's backward reads: the gradient of its result, and the forward's codes where it has maxima.
inline void check_pooled(const Tensor& grad,                  // (N, C, H', W')
                         const std::optional<Tensor>& codes,  // (N, bytes)
                         const Tensor& x,                     // (N, C, H, W)
                         const Pooling& pooling) {
  const int64_t height = pooling.out_height(), width = pooling.out_width();
  check(grad.dim() == 4 && grad.size(0) == x.size(0) && grad.size(1) == x.size(1) && grad.size(2) == height &&
            grad.size(3) == width,
        "grad: expected (", x.size(0), ", ", x.size(1), ", ", height, ", ", width, ")");
  check(grad.scalar_type() == x.scalar_type() && grad.device() == x.device(),
        "grad: expected the dtype and device of the map that is written");
  if (pooling.kind == PoolKind::kAverage) return;
  check(codes.has_value(), "codes: expected those of the forward pass for kind max and blur, got none");
  check_bytes(*codes, "codes", pooling.code_bytes(x.size(1)), x);
}

// What the backward of l2_pool reads: the gradient of its result.
inline void check_l2_pooled(const Tensor& grad,  // (N, C, H', W')
                            const Tensor& x) {   // (N, C, H, W)
  const int64_t height = l2_pooled(x.size(2)), width = l2_pooled(x.size(3));
  check(grad.dim() == 4 && grad.size(0) == x.size(0) && grad.size(1) == x.size(1) && grad.size(2) == height &&
            grad.size(3) == width,
        "grad: expected (", x.size(0), ", ", x.size(1), ", ", height, ", ", width, ")");
  check(grad.scalar_type() == x.scalar_type() && grad.device() == x.device(),
        "grad: expected the dtype and device of the map that was pooled");
}

}  // namespace perceptual_ops
