// Numbers of channels, as the loops over a map in NHWC order read them.
#pragma once

#include <vector>

#include "../common/cpu.h"

namespace perceptual_ops {

// What added changes nothing, not even the sign of a zero.
template <class Acc>
constexpr Acc kNothing = Acc(-0.0);

// numbers[i % C] for i below `count`, with kNothing for no numbers.
template <class Acc>
std::vector<Acc> repeated(const std::optional<Tensor>& numbers,  // (C)
                          int64_t channels, int64_t count) {
  std::vector<Acc> row(count, kNothing<Acc>);
  if (!numbers) return row;
  const Tensor dense = torch::stable::contiguous(*numbers);
  dispatch_dtype(dense, "bias", [&](auto element) {
    using T = decltype(element);
    const T* data = static_cast<const T*>(dense.data_ptr());
    for (int64_t i = 0; i < count; ++i) row[i] = static_cast<Acc>(data[i % channels]);
  });
  return row;
}

}  // namespace perceptual_ops
