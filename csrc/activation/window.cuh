// The geometry of pooling.h on the device, what kernels know of it when they are compiled, and the codes of windows.
#pragma once

#include <algorithm>

#include "groups.cuh"
#include "pooling.h"

namespace perceptual_ops {

constexpr int kAny = 0;  // a kernel or a stride that is known at run time alone

// All sizes under 2^31 (pool.cu checks).
struct PoolShape {
  int height, width;          // of the map
  int rows, columns;          // of windows
  int out_height, out_width;  // of the result
  int kernel, stride;
  int bits;            // of a code
  int64_t code_bytes;  // a sample
};

inline PoolShape pool_shape(const Pooling& pooling, int64_t channels) {
  // A larger stride than the bordered map finds the same windows.
  const int64_t farthest = std::max(pooling.height, pooling.width) + 2 * Pooling::kBlurPadding;
  return {static_cast<int>(pooling.height),           static_cast<int>(pooling.width),
          static_cast<int>(pooling.windows_height()), static_cast<int>(pooling.windows_width()),
          static_cast<int>(pooling.out_height()),     static_cast<int>(pooling.out_width()),
          static_cast<int>(pooling.kernel),           static_cast<int>(std::min(pooling.stride, farthest)),
          static_cast<int>(pooling.code_bits()),      pooling.code_bytes(channels)};
}

// A pooling with what is known of it at compile time.
template <PoolKind kKind_, int kKernel_, int kStride_>
struct Window {
  static constexpr PoolKind kKind = kKind_;
  static constexpr int kKernel = kKernel_, kStride = kStride_;
  // Of a group: what is known to fit 4 bits a code is a word of 32.
  using Codes = std::conditional_t<kKernel == kAny, uint64_t, uint32_t>;
  static_assert(kKernel <= Pooling::kLargestNibbleKernel, "codes of a larger kernel take 8 bits");

  static __device__ __forceinline__ int kernel(const PoolShape& shape) {
    return kKernel == kAny ? shape.kernel : kKernel;
  }
  static __device__ __forceinline__ int stride(const PoolShape& shape) {
    return kStride == kAny ? shape.stride : kStride;
  }
  // Pixels from window to window.
  static __device__ __forceinline__ int step(const PoolShape& shape) {
    return kKind == PoolKind::kBlur ? 1 : stride(shape);
  }
  static __device__ __forceinline__ int bits(const PoolShape& shape) { return kKernel == kAny ? shape.bits : 4; }
  // The code of a window whose maximum does not pass the ReLU.
  static __device__ __forceinline__ int nowhere(const PoolShape& shape) { return (1 << bits(shape)) - 1; }
};

// Calls f(Window<...>{}): one of its own for 2 x 2 and 3 x 3 windows at stride 2, where they go by groups.
template <int kWidth, class F>
void dispatch_window(const Pooling& pooling, F&& f) {
  if constexpr (kWidth == kGroup) {
    const auto is = [&](PoolKind kind, int kernel, int stride) {
      return pooling.kind == kind && pooling.kernel == kernel && pooling.stride == stride;
    };
    if (is(PoolKind::kMax, 2, 2)) return f(Window<PoolKind::kMax, 2, 2>{});
    if (is(PoolKind::kMax, 3, 2)) return f(Window<PoolKind::kMax, 3, 2>{});
    if (is(PoolKind::kAverage, 2, 2)) return f(Window<PoolKind::kAverage, 2, 2>{});
    if (is(PoolKind::kBlur, 2, 2)) return f(Window<PoolKind::kBlur, 2, 2>{});
  }
  switch (pooling.kind) {
    case PoolKind::kMax:
      return f(Window<PoolKind::kMax, kAny, kAny>{});
    case PoolKind::kAverage:
      return f(Window<PoolKind::kAverage, kAny, kAny>{});
    case PoolKind::kBlur:
      return f(Window<PoolKind::kBlur, kAny, kAny>{});
  }
}

// A word of codes, of a group in the order of the map of windows: its codes lie in `bits` bytes. `count` of them exist.
template <int kWidth, class Codes>
__device__ __forceinline__ void store_codes(uint8_t* codes,  // (code_bytes) of the sample
                                            uint32_t group, int bits, int count, Codes word) {
  uint8_t* to = codes + int64_t(group) * bits;
  if constexpr (kWidth == kGroup) {
    if (bits == 4) {
      *reinterpret_cast<uint32_t*>(to) = static_cast<uint32_t>(word);
    } else {
      *reinterpret_cast<uint64_t*>(to) = word;
    }
  } else {
    for (int byte = 0; byte < (count * bits + 7) / 8; ++byte) to[byte] = static_cast<uint8_t>(word >> (8 * byte));
  }
}

// The codes of a unit of the map of windows, the first in the lowest bits.
template <int kWidth, class Codes>
__device__ __forceinline__ Codes load_codes(const uint8_t* __restrict__ codes,  // (code_bytes) of the sample
                                            uint32_t unit, int bits) {
  if constexpr (kWidth == kGroup) {
    const uint8_t* from = codes + int64_t(unit) * bits;
    return bits == 4 ? *reinterpret_cast<const uint32_t*>(from) : *reinterpret_cast<const uint64_t*>(from);
  } else {
    return bits == 4 ? codes[unit / 2] >> (unit % 2 * 4) & 15 : codes[unit];
  }
}

// Weights of the binomial filter along an axis, over 4.
template <class Acc>
__device__ __forceinline__ Acc binomial(int tap) {
  return tap == 1 ? Acc(0.5) : Acc(0.25);
}

}  // namespace perceptual_ops
