#include "masked_cpu.h"

#include <limits>

namespace perceptual_ops {
namespace {

template <class D, class T>
PO_INLINE void masked_walk(const D* d, Accumulator<T> factor, const T* tap, const uint8_t* passes, const T* below,
                           T* out, int64_t count) {
  using Acc = Accumulator<T>;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Acc gradient = factor * static_cast<Acc>(d[i]) + static_cast<Acc>(tap[i]);
    store_rounded(out[i], (passes[i] ? gradient : Acc(0)) + static_cast<Acc>(below[i]));
  }
}

template <class T>
PO_INLINE uint64_t magnitude_walk(const T* x, int64_t count) {
  Bits<T> largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) {
    Bits<T> bits;
    std::memcpy(&bits, x + i, sizeof(T));
    bits &= std::numeric_limits<Bits<T>>::max() / 2;  // without the sign
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

}  // namespace

// Clones cannot be templates.
#define PO_STORE_MASKED_BODY(D, T)                                                                            \
  PO_CPU_CLONES uint64_t store_masked(const D* d, Accumulator<T> factor, const T* tap, const uint8_t* passes, \
                                      const T* below, T* out, int64_t count) {                                \
    masked_walk(d, factor, tap, passes, below, out, count);                                                   \
    return magnitude_walk(out, count);                                                                        \
  }
PO_STORE_MASKED_BODY(float, float)
PO_STORE_MASKED_BODY(double, double)
PO_STORE_MASKED_BODY(Half, Half)
PO_STORE_MASKED_BODY(BFloat16, BFloat16)
PO_STORE_MASKED_BODY(float, Half)
PO_STORE_MASKED_BODY(float, BFloat16)

}  // namespace perceptual_ops
