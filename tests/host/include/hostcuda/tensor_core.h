// The arithmetic of a tensor core: exact products, sums that are cut off and not rounded. Four sums at a time, in
// gcc's vectors: most of what the host execution computes is this.
#pragma once

#include <cstdint>

namespace hostcuda {

using Floats = float __attribute__((vector_size(16)));
using Ints = int32_t __attribute__((vector_size(16)));
using Doubles = double __attribute__((vector_size(32)));
using Words = uint64_t __attribute__((vector_size(32)));

inline Doubles magnitude(Doubles values) { return values < 0.0 ? -values : values; }

// The part of each number that fits fp32, towards zero: what was rounded away from it goes back by one.
inline Floats truncated(Doubles values) {
  const Floats nearest = __builtin_convertvector(values, Floats);
  const auto larger = magnitude(__builtin_convertvector(nearest, Doubles)) > magnitude(values);  // -1 where true
  return (Floats)((Ints)nearest + __builtin_convertvector(larger, Ints));
}

// start + the products, all shifted to the exponent of the largest, cut off after 24 bits, and added exactly. Fasi,
// Higham, Mikaitis, Pranesh (2021), doi:10.7717/peerjcs.330, measured this; later chips keep a bit or more beyond the
// 24. None are kept here, so that a kernel which is accurate enough here is so on all of them.
template <int kCount>
Floats shifted_sum(const Doubles (&products)[kCount], Floats start) {
  const Doubles first = __builtin_convertvector(start, Doubles);
  Doubles largest = magnitude(first), plain = first;
  for (const Doubles& product : products) {
    const Doubles size = magnitude(product);
    largest = size > largest ? size : largest;
    plain += product;
  }
  // Products of fp32 numbers are normal in fp64, so that the exponent of each power of two is in its bits.
  const Words exponent = (Words)largest >> 52;
  const auto shift = (Doubles)((2 * 1023 + 23 - exponent) << 52), last_place = (Doubles)((exponent - 23) << 52);
  Ints sum = __builtin_convertvector(first * shift, Ints);  // each has 24 bits at most
  for (const Doubles& product : products) sum += __builtin_convertvector(product * shift, Ints);
  const Floats cut = truncated(__builtin_convertvector(sum, Doubles) * last_place);
  const auto is_number = (largest > 0.0) & (plain - plain == 0.0);  // and not all are zero
  return __builtin_convertvector(is_number, Ints) ? cut : __builtin_convertvector(plain, Floats);
}

}  // namespace hostcuda
