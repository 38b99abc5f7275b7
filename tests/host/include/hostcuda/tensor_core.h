// The arithmetic of a tensor core: exact products, sums that are cut off and not rounded.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace hostcuda {

// The part of a number that fits fp32, towards zero.
inline float truncated(double value) {
  const float nearest = static_cast<float>(value);
  return std::abs(double(nearest)) > std::abs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

// Of normal numbers, which products of fp32 numbers are in fp64.
inline int exponent_of(double value) { return int(std::bit_cast<uint64_t>(value) >> 52 & 0x7ff) - 1023; }
inline double power_of_two(int exponent) { return std::bit_cast<double>(uint64_t(exponent + 1023) << 52); }

// start + the products, all shifted to the exponent of the largest, cut off after 24 bits, and added exactly. Fasi,
// Higham, Mikaitis, Pranesh (2021), doi:10.7717/peerjcs.330, measured this; later chips keep a bit or more beyond the
// 24. None are kept here, so that a kernel which is accurate enough here is so on all of them.
inline float shifted_sum(const double* products, int count, float start) {
  double largest = std::abs(start), plain = start;
  for (int i = 0; i < count; ++i) {
    largest = std::max(largest, std::abs(products[i]));
    plain += products[i];
  }
  if (largest == 0 || !std::isfinite(plain)) return static_cast<float>(plain);
  const int last_place = exponent_of(largest) - 23;
  const double shift = power_of_two(-last_place);
  auto sum = static_cast<int32_t>(start * shift);  // each has 24 bits at most
  for (int i = 0; i < count; ++i) sum += static_cast<int32_t>(products[i] * shift);
  return truncated(static_cast<double>(sum) * power_of_two(last_place));
}

// start + sum of a[k] * b[k], kAtOnce products at a time, as Ampere does.
template <int kDepth, int kAtOnce>
float tensor_core_sum(const double* a, const double* b, float start) {
  for (int first = 0; first < kDepth; first += kAtOnce) {
    double products[kAtOnce];
    for (int i = 0; i < kAtOnce; ++i) products[i] = a[first + i] * b[first + i];
    start = shifted_sum(products, kAtOnce, start);
  }
  return start;
}

}  // namespace hostcuda
