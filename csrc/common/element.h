// The element types of feature maps, by name, for launchers that know no torch.
#pragma once

#include <cstdint>

namespace perceptual_ops {

enum class Element : int8_t { kFloat32, kFloat64, kFloat16, kBFloat16 };

inline int64_t element_bytes(Element element) {
  return element == Element::kFloat64 ? 8 : element == Element::kFloat32 ? 4 : 2;
}

}  // namespace perceptual_ops
