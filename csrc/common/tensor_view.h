// From torch tensors to the plain views and pointers of the kernels: layouts, copies where a layout is not served,
// and the accumulation type of each dtype.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.h"
#include "feature_map.h"

namespace perceptual_ops {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sums, Grams and losses are fp32, or fp64 for fp64 input.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline ScalarType accumulator_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls f(T{}) for the element type of `x`.
template <class F>
void dispatch_dtype(const Tensor& x, const char* argument, F&& f) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Half:
      return f(Half{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    default:
      check(false, argument, ": expected dtype float32, float16, bfloat16 or float64");
  }
}

inline torch::headeronly::MemoryFormat memory_format(Layout layout) {
  using torch::headeronly::MemoryFormat;
  return layout == Layout::kNCHW ? MemoryFormat::Contiguous : MemoryFormat::ChannelsLast;
}

// The view of x (N, C, H, W) that the kernels read in place, or nothing where its strides are neither NCHW-like (pixels
// side by side) nor NHWC-like (channels side by side). Strides of axes of length one say nothing and are replaced.
std::optional<FeatureMap> feature_map(const Tensor& x);

// The layout that x is served in: its own, or NCHW for the copy of a map whose strides are not served.
Layout layout_of(const Tensor& x);

// x itself where its strides are served, else a contiguous copy.
Tensor served(const Tensor& x);

// The same, in one layout.
Tensor served_as(const Tensor& x, Layout layout);

// Whether every sample of x is dense in `layout`; samples may lie apart, or stand for each other (stride 0).
bool has_dense_samples(const Tensor& x, Layout layout);

// x itself where every sample of it is dense in `layout`, else a copy that is.
Tensor dense_samples(const Tensor& x, Layout layout);

// New tensors: as torch.empty_like makes them in another dtype, and on x's device in channels_last.
Tensor empty_like_in(const Tensor& x, ScalarType dtype);
Tensor empty_channels_last(const Tensor& x, std::vector<int64_t> sizes, ScalarType dtype);

// A new tensor like x, to be filled through `dense`, which is wholly dense in `layout`: the tensor itself where its
// strides allow it, else a temporary that finished() copies over. Strides follow torch.empty_like, which the fake
// kernels in Python use too.
class LikeOutput {
 public:
  LikeOutput(const Tensor& x, Layout layout);
  Tensor& dense() { return temporary_ ? *temporary_ : out_; }
  Tensor finished() { return temporary_ ? torch::stable::copy_(out_, *temporary_) : out_; }

 private:
  Tensor out_;
  std::optional<Tensor> temporary_;
};

// The same, filled at once by fill(dense).
template <class Fill>
Tensor filled_like(const Tensor& x, Layout layout, Fill&& fill) {
  LikeOutput output(x, layout);
  fill(output.dense());
  return output.finished();
}

}  // namespace perceptual_ops
