// Sixteen bytes of elements, moved by one instruction.
#pragma once

namespace perceptual_ops {

template <class T>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(T);
  T values[kCount];
};

}  // namespace perceptual_ops

#ifdef __CUDACC__

namespace perceptual_ops {

// `from` and `to` are multiples of 16.
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  Pack<T> pack;
  *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(from);
  return pack;
}

template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&pack);
}

}  // namespace perceptual_ops

#else
#include <hostcuda/vec.h>
#endif
