#include "masked_cpu.h"

#include <limits>

namespace perceptual_ops {
namespace {

template <class T>
PO_INLINE Bits<T> magnitude_bits(const T& number) {
  Bits<T> bits;
  std::memcpy(&bits, &number, sizeof(T));
  return bits & std::numeric_limits<Bits<T>>::max() / 2;  // without the sign
}

template <class D, class T>
PO_INLINE uint64_t masked_walk(const D* d, Accumulator<T> factor, const T* tap, const uint8_t* passes, const T* below,
                               T* out, int64_t count) {
  using Acc = Accumulator<T>;
  Bits<T> largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) {
    const Acc gradient = factor * static_cast<Acc>(d[i]) + static_cast<Acc>(tap[i]);
    store_rounded(out[i], (passes[i] ? gradient : Acc(0)) + static_cast<Acc>(below[i]));
    const Bits<T> bits = magnitude_bits(out[i]);
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

}  // namespace

// Clones cannot be templates.
#define PO_STORE_MASKED_BODY(D, T) \
  PO_CPU_CLONES PO_STORE_MASKED(D, T) { return masked_walk(d, factor, tap, passes, below, out, count); }
PO_STORE_MASKED_BODY(float, float)
PO_STORE_MASKED_BODY(double, double)
PO_STORE_MASKED_BODY(Half, Half)
PO_STORE_MASKED_BODY(BFloat16, BFloat16)
PO_STORE_MASKED_BODY(float, Half)
PO_STORE_MASKED_BODY(float, BFloat16)

}  // namespace perceptual_ops
