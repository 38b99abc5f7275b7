// The schemas' string arguments as enums and numbers, for every backend.
#pragma once

#include <cstdint>
#include <string>

#include "check.h"
#include "distance.h"

namespace perceptual_ops {

// What multiplies the sum over pixels in a Gram matrix of a (C, H, W) map.
inline double gram_scale(const std::string& normalize, int64_t channels, int64_t pixels) {
  if (normalize == "none") return 1.0;
  if (normalize == "hw") return 1.0 / static_cast<double>(pixels);
  check(normalize == "chw", "normalize: expected none, hw or chw, got ", normalize);
  return 1.0 / (static_cast<double>(channels) * static_cast<double>(pixels));
}

// A distance by name, and whether it is averaged over the elements ("sse" sums).
struct DistanceKind {
  Distance distance;
  bool mean;

  double scale(int64_t elements) const { return mean ? 1.0 / static_cast<double>(elements) : 1.0; }
};

inline DistanceKind distance_kind(const std::string& name) {
  if (name == "mse") return {Distance::kSquared, true};
  if (name == "sse") return {Distance::kSquared, false};
  if (name == "l1") return {Distance::kL1, true};
  if (name == "charbonnier") return {Distance::kCharbonnier, true};
  check(name == "huber", "distance: expected mse, sse, l1, charbonnier or huber, got ", name);
  return {Distance::kHuber, true};
}

// The distance that a total variation sums. "l2", the root of "l2_squared", is made in Python.
inline Distance variation_distance(const std::string& kind) {
  if (kind == "l1") return Distance::kL1;
  check(kind == "l2_squared", "kind: expected l1 or l2_squared, got ", kind);
  return Distance::kSquared;
}

}  // namespace perceptual_ops
