// The arguments of loss scaling, checked and held, the same for every backend.
#pragma once

#include <optional>
#include <vector>

#include "../common/tensor_view.h"
#include "loss_scaling.h"

namespace perceptual_ops {

// Holds what the pointers point to, copies among it.
class LossScaleArguments {
 public:
  LossScaleArguments(const std::optional<Tensor>& scale,  // (N)
                     const std::optional<Tensor>& bound,  // (N)
                     const std::optional<Tensor>& grown,  // ()
                     double spread,
                     const std::vector<Tensor>& taps,     // K x (N)
                     const std::optional<Tensor>& grows,  // ()
                     double room)
      : first_(first_of(bound, taps)), result_(torch::stable::new_empty(first_, {4, first_.numel()})) {
    check(taps.size() <= kMaxTaps, "taps: expected at most ", kMaxTaps, ", got ", taps.size());
    scaling_.batch = first_.numel();
    scaling_.scale = samples(scale, "scale");
    scaling_.bound = samples(bound, "bound");
    scaling_.grown = number(grown, "grown");
    scaling_.spread = static_cast<float>(spread);
    scaling_.taps = static_cast<int>(taps.size());
    for (size_t i = 0; i < taps.size(); ++i) scaling_.tap_bounds[i] = samples(taps[i], "taps");
    scaling_.grows = number(grows, "grows");
    scaling_.room = static_cast<float>(room);
    scaling_.result = static_cast<float*>(result_.data_ptr());
  }

  const LossScaling& scaling() const { return scaling_; }
  const Tensor& result() const { return result_; }  // (4, N)

  // The bounds that are always there, whose device is that of all: (N).
  static Tensor first_of(const std::optional<Tensor>& bound,  // (N)
                         const std::vector<Tensor>& taps) {   // K x (N)
    check(bound.has_value() || !taps.empty(), "bound: expected one where there are no taps");
    return bound ? *bound : taps[0];
  }

 private:
  const float* samples(const std::optional<Tensor>& numbers, const char* argument) {  // (N)
    if (!numbers) return nullptr;
    check(numbers->dim() == 1 && numbers->numel() == first_.numel(), argument, ": expected (", first_.numel(), ")");
    return pointer(*numbers, argument);
  }

  const float* number(const std::optional<Tensor>& numbers, const char* argument) {  // ()
    if (!numbers) return nullptr;
    check(numbers->numel() == 1, argument, ": expected one number");
    return pointer(*numbers, argument);
  }

  const float* pointer(const Tensor& numbers, const char* argument) {
    check(numbers.scalar_type() == ScalarType::Float && numbers.device() == first_.device(), argument,
          ": expected float32 on the device of the others");
    held_.push_back(torch::stable::contiguous(numbers));
    return static_cast<const float*>(held_.back().data_ptr());
  }

  Tensor first_, result_;
  std::vector<Tensor> held_;
  LossScaling scaling_{};
};

}  // namespace perceptual_ops
