// Elements side by side, moved by one instruction: sixteen bytes of them, or a single one where addresses allow no
// more.
#pragma once

namespace perceptual_ops {

// Elements of one 16-byte access.
template <class T>
constexpr int kPackWidth = 16 / sizeof(T);

template <class T, int kWidth = kPackWidth<T>>
struct alignas(kWidth * sizeof(T)) Pack {
  static_assert(kWidth == 1 || kWidth == kPackWidth<T>, "one element, or sixteen bytes");
  T values[kWidth];
};

}  // namespace perceptual_ops

#ifdef __CUDACC__

namespace perceptual_ops {

// In global memory; `from` and `to` are multiples of the pack's size. What is read does not change during a launch:
// __ldg says so, and that the address is a global one, which the compiler cannot know of pointers kept in shared
// memory.
template <class T, int kWidth = kPackWidth<T>>
__device__ __forceinline__ Pack<T, kWidth> load_pack(const T* from) {
  Pack<T, kWidth> pack;
  if constexpr (kWidth == 1) {
    pack.values[0] = __ldg(from);
  } else {
    *reinterpret_cast<uint4*>(&pack) = __ldg(reinterpret_cast<const uint4*>(from));
  }
  return pack;
}

// The same of data that this launch also writes, each pack by the thread that reads it.
template <class T, int kWidth = kPackWidth<T>>
__device__ __forceinline__ Pack<T, kWidth> load_own_pack(const T* from) {
  Pack<T, kWidth> pack;
  if constexpr (kWidth == 1) {
    pack.values[0] = *from;
  } else {
    *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(from);
  }
  return pack;
}

template <class T, int kWidth>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, kWidth>& pack) {
  if constexpr (kWidth == 1) {
    *to = pack.values[0];
  } else {
    // By name: the compiler takes plain stores of packs whose elements were computed apart into words.
    const uint4 words = *reinterpret_cast<const uint4*>(&pack);
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words.x), "r"(words.y), "r"(words.z),
                 "r"(words.w)
                 : "memory");
  }
}

}  // namespace perceptual_ops

#else
#include <hostcuda/vec.h>
#endif
