// Elements side by side, moved by one instruction: sixteen bytes of them, or a single one where addresses allow no
// more.
#pragma once

#include "cuda_element.cuh"

namespace perceptual_ops {

// Elements of one 16-byte access.
template <class T>
constexpr int kPackWidth = 16 / sizeof(T);

template <class T, int kWidth = kPackWidth<T>>
struct alignas(kWidth * sizeof(T)) Pack {
  static_assert(kWidth == 1 || kWidth == 4 || kWidth == kPackWidth<T>, "one element, sixteen bytes, or four elements");
  T values[kWidth];
};

// Whether all samples of a map, `stride` elements apart, begin with a pack.
template <class T>
bool begins_packed(const void* data, int64_t batch = 1, int64_t stride = 0) {
  return reinterpret_cast<uintptr_t>(data) % sizeof(Pack<T>) == 0 && (batch <= 1 || stride % kPackWidth<T> == 0);
}

// Where the lowest bit of element `k` stands in words of four bits an element: in order, but of 16 bits the second of
// every two, which one instruction compares, in the upper half.
template <class T>
__host__ __device__ constexpr int nibble_of(int k) {
  return sizeof(T) == 2 ? 4 * (k / 2) + 16 * (k % 2) : 4 * k;
}

}  // namespace perceptual_ops

#ifdef __CUDACC__

namespace perceptual_ops {

// The larger of each two elements of at most 32 bits; NaN where one is.
template <class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> larger(const Pack<T, kWidth>& a, const Pack<T, kWidth>& b) {
  Pack<T, kWidth> pack;
  if constexpr (sizeof(T) == 2) {
    using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
      reinterpret_cast<Pair*>(&pack)[i] =
          __hmax2_nan(reinterpret_cast<const Pair*>(&a)[i], reinterpret_cast<const Pair*>(&b)[i]);
    }
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      asm("max.NaN.f32 %0, %1, %2;" : "=f"(pack.values[k]) : "f"(a.values[k]), "f"(b.values[k]));
    }
  }
  return pack;
}

// A bit for each element of `a` that is not at least that of `b`, at nibble_of.
template <class T, int kWidth>
__device__ __forceinline__ uint32_t less(const Pack<T, kWidth>& a, const Pack<T, kWidth>& b) {
  uint32_t bits = 0;
  if constexpr (sizeof(T) == 2) {
    using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
      const uint32_t mask = __hge2_mask(reinterpret_cast<const Pair*>(&a)[i], reinterpret_cast<const Pair*>(&b)[i]);
      bits |= ~mask & (0x00010001u << (4 * i));
    }
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      if (!(a.values[k] >= b.values[k])) bits |= 1u << nibble_of<T>(k);
    }
  }
  return bits;
}

// An element of a pack. Of two bfloat16 in a word each takes one instruction; by itself the second takes two.
template <class T, int kWidth>
__device__ __forceinline__ DeviceAccumulator<T> widen(const Pack<T, kWidth>& pack, int k) {
  if constexpr (std::is_same_v<T, __nv_bfloat16> && kWidth > 1) {
    const uint32_t word = reinterpret_cast<const uint32_t*>(&pack)[k / 2];
    return __uint_as_float(k % 2 == 0 ? word << 16 : word & 0xffff0000u);
  } else {
    return widen(pack.values[k]);
  }
}

// Sums as elements, each rounded to the nearest: those of 16 bits two by one instruction.
template <class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> narrow_pack(const DeviceAccumulator<T>* values) {
  Pack<T, kWidth> pack;
  if constexpr (sizeof(T) == 2 && kWidth > 1) {
    static_assert(kWidth == kPackWidth<T>, "four words");
    using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
    uint32_t words[kWidth / 2];
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
      Pair pair;
      if constexpr (std::is_same_v<T, __half>) {
        pair = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
      } else {
        pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
      }
      words[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    *reinterpret_cast<uint4*>(&pack) = make_uint4(words[0], words[1], words[2], words[3]);
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) pack.values[k] = narrow<T>(values[k]);
  }
  return pack;
}

// In global memory; `from` and `to` are multiples of the pack's size. What is read does not change during a launch:
// __ldg says so, and that the address is a global one, which the compiler cannot know of pointers kept in shared
// memory.
template <class T, int kWidth = kPackWidth<T>>
__device__ __forceinline__ Pack<T, kWidth> load_pack(const T* from) {
  Pack<T, kWidth> pack;
  if constexpr (kWidth == 1) {
    pack.values[0] = __ldg(from);
  } else if constexpr (sizeof pack == 8) {
    *reinterpret_cast<uint2*>(&pack) = __ldg(reinterpret_cast<const uint2*>(from));
  } else {
    *reinterpret_cast<uint4*>(&pack) = __ldg(reinterpret_cast<const uint4*>(from));
  }
  return pack;
}

// The same where `wanted`, zeros elsewhere. By a predicate, not a branch: the loads of a thread start together, and
// what they bring is unpacked where it is used.
template <class T, int kWidth = kPackWidth<T>>
__device__ __forceinline__ Pack<T, kWidth> load_pack_if(bool wanted, const T* from) {
  Pack<T, kWidth> pack{};
  if constexpr (kWidth == 1) {
    if (wanted) pack.values[0] = __ldg(from);
  } else {
    uint4 words{};
    asm("{\n .reg .pred wanted;\n setp.ne.b32 wanted, %5, 0;\n @wanted ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
        : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w)
        : "l"(from), "r"(int(wanted)));
    *reinterpret_cast<uint4*>(&pack) = words;
  }
  return pack;
}

// Both of data that this launch also writes, each pack by the thread that reads it.
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

template <class T, int kWidth = kPackWidth<T>>
__device__ __forceinline__ Pack<T, kWidth> load_own_pack_if(bool wanted, const T* from) {
  Pack<T, kWidth> pack{};
  if constexpr (kWidth == 1) {
    if (wanted) pack.values[0] = *from;
  } else {
    uint4 words{};
    asm volatile(
        "{\n .reg .pred wanted;\n setp.ne.b32 wanted, %5, 0;\n @wanted ld.global.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
        : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w)
        : "l"(from), "r"(int(wanted))
        : "memory");
    *reinterpret_cast<uint4*>(&pack) = words;
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
