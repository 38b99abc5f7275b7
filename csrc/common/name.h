// Names among an operator's arguments, such as "max" or "chw".
#pragma once

#include <torch/csrc/stable/stableivalue_conversions.h>

#include <string>

namespace perceptual_ops {

struct Name : std::string {
  using std::string::string;
};

}  // namespace perceptual_ops

namespace torch::stable::detail {

// As torch's own for std::string, which up to torch 2.13 keeps a copy of every one for good: 32 bytes a call.
template <>
struct ToImpl<perceptual_ops::Name> {
  static perceptual_ops::Name call(StableIValue value, uint64_t, bool) {
    const StringHandle handle = torch::stable::detail::to<StringHandle>(value);
    size_t length = 0;
    const char* characters = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &characters));
    const perceptual_ops::Name name(characters, length);
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return name;
  }
};

}  // namespace torch::stable::detail
