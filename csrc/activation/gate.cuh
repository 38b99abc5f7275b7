// Epilogue of the backward kernels: the ReLU's backward, and the largest magnitude of each sample for loss scaling.
#pragma once

#include "../common/reduce.cuh"
#include "groups.cuh"

namespace perceptual_ops {

// Magnitudes as unsigned integers of the same order, NaN above the infinities: an atomic maximum of them is
// deterministic.
template <class Acc>
using MagnitudeBits = std::conditional_t<std::is_same_v<Acc, double>, unsigned long long, unsigned>;

__device__ __forceinline__ unsigned magnitude_bits(float value) { return __float_as_uint(value) & 0x7fffffffu; }
__device__ __forceinline__ unsigned long long magnitude_bits(double value) {
  return static_cast<unsigned long long>(__double_as_longlong(value)) & 0x7fffffffffffffffull;
}

// Raises `maximum` to the largest value of a block's threads, all of which call it.
template <int kThreads, class Bits>
__device__ __forceinline__ void raise_maximum(Bits bits, Bits* maximum) {
  static_assert(kThreads % kWarp == 0 && kThreads / kWarp <= kWarp, "one warp must be able to hold the warps' maxima");
  using WarpMaxima = Bits[kThreads / kWarp];
  PO_SHARED(WarpMaxima, warp_maxima);
  const auto warp_maximum = [](Bits value) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      value = max(value, __shfl_xor_sync(0xffffffffu, value, offset));
    }
    return value;
  };
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  bits = warp_maximum(bits);
  if (lane == 0) warp_maxima[warp] = bits;
  __syncthreads();
  if (warp != 0) return;
  bits = warp_maximum(lane < kThreads / kWarp ? warp_maxima[lane] : Bits(0));
  if (lane == 0) atomicMax(maximum, bits);
}

// BackwardTerms on the device. `tap` is read as what the launch writes: it may be that.
template <class T>
struct Gate {
  using Acc = DeviceAccumulator<T>;
  using Bits = MagnitudeBits<Acc>;

  const uint8_t* signs;  // (N, groups), or null
  const T* tap;          // (N, E), or null
  const T* below;        // (N, E), or null
  const Acc* factor;     // (N), or null
  Bits* maxima;          // (N), or null

  explicit Gate(const BackwardTerms& terms)
      : signs(terms.signs),
        tap(static_cast<const T*>(terms.tap)),
        below(static_cast<const T*>(terms.below)),
        factor(static_cast<const Acc*>(terms.factor)),
        maxima(static_cast<Bits*>(terms.maxima)) {}

  __device__ __forceinline__ Acc factor_of(uint32_t n) const { return factor ? factor[n] : Acc(1); }
  // The signs of a group, the first in the lowest bit.
  __device__ __forceinline__ unsigned signs_of(int64_t group) const { return signs ? signs[group] : 0xffu; }
};

// Operands of the epilogue, loaded together with the gradient.
template <class T, int kWidth>
struct Added {
  Elements<T, kWidth> tap, below;

  // From `place` of the batch; zeros where there is none.
  __device__ __forceinline__ void load(const Gate<T>& gate, int64_t place) {
    tap = load_own_elements_if<kWidth>(gate.tap, gate.tap + place);
    below = load_elements_if<kWidth>(gate.below, gate.below + place);
  }

  // The result for kWidth gradients: signs in the lowest bits. Raises `largest` to its magnitudes. What does not pass
  // is zero, also where it is NaN.
  __device__ __forceinline__ Elements<T, kWidth> passed(const DeviceAccumulator<T> (&gradient)[kWidth],
                                                        DeviceAccumulator<T> factor, unsigned signs,
                                                        typename Gate<T>::Bits& largest) const {
    using Acc = DeviceAccumulator<T>;
    Acc sums[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const Acc through = signs >> k & 1 ? factor * gradient[k] + widen(tap, k) : Acc(0);
      sums[k] = through + widen(below, k);
    }
    const auto result = narrow_elements<T>(sums);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) largest = max(largest, magnitude_bits(widen(result, k)));
    return result;
  }
};

}  // namespace perceptual_ops
