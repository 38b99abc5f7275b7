// Thread mapping of the activation kernels over dense channels_last maps: a thread takes groups of eight contiguous
// elements of a sample, which are one byte of signs and one word of codes. Where channels come in eights and
// maps begin at multiples of 16 bytes a group is eight channels of one pixel, moved by packs of 16 bytes; otherwise
// its elements are moved one by one.
#pragma once

#include <initializer_list>

#include "../common/cuda_element.cuh"
#include "../common/feature_map.h"
#include "../common/launch.h"
#include "../common/vec.cuh"
#include "terms.h"

namespace perceptual_ops {

constexpr int kGroup = 8;
constexpr int kActivationThreads = 256;

// kWidth channels of one pixel.
template <class T, int kWidth>
struct Elements {
  static constexpr int kPack = kWidth == 1 ? 1 : kPackWidth<T>;
  Pack<T, kPack> packs[kWidth / kPack];

  __device__ __forceinline__ T& operator[](int k) { return packs[k / kPack].values[k % kPack]; }
  __device__ __forceinline__ const T& operator[](int k) const { return packs[k / kPack].values[k % kPack]; }
};

template <class T, int kWidth>
__device__ __forceinline__ DeviceAccumulator<T> widen(const Elements<T, kWidth>& elements, int k) {
  constexpr int kPack = Elements<T, kWidth>::kPack;
  return widen(elements.packs[k / kPack], k % kPack);
}

template <class T, int kWidth>
__device__ __forceinline__ Elements<T, kWidth> narrow_elements(const DeviceAccumulator<T> (&values)[kWidth]) {
  constexpr int kPack = Elements<T, kWidth>::kPack;
  Elements<T, kWidth> elements;
#pragma unroll
  for (int i = 0; i < kWidth / kPack; ++i) elements.packs[i] = narrow_pack<T, kPack>(values + i * kPack);
  return elements;
}

// load(from) is a pack.
template <int kWidth, class T, class Load>
__device__ __forceinline__ Elements<T, kWidth> elements_of_packs(const T* from, Load&& load) {
  Elements<T, kWidth> elements;
#pragma unroll
  for (int i = 0; i < kWidth / elements.kPack; ++i) elements.packs[i] = load(from + i * elements.kPack);
  return elements;
}

template <int kWidth, class T>
__device__ __forceinline__ Elements<T, kWidth> load_elements(const T* from) {
  return elements_of_packs<kWidth>(from, [](const T* pack) { return load_pack<T, Elements<T, kWidth>::kPack>(pack); });
}

// The same where `wanted`, zeros elsewhere.
template <int kWidth, class T>
__device__ __forceinline__ Elements<T, kWidth> load_elements_if(bool wanted, const T* from) {
  return elements_of_packs<kWidth>(
      from, [&](const T* pack) { return load_pack_if<T, Elements<T, kWidth>::kPack>(wanted, pack); });
}

// Both of a map that the launch writes.
template <int kWidth, class T>
__device__ __forceinline__ Elements<T, kWidth> load_own_elements(const T* from) {
  return elements_of_packs<kWidth>(from,
                                   [](const T* pack) { return load_own_pack<T, Elements<T, kWidth>::kPack>(pack); });
}

template <int kWidth, class T>
__device__ __forceinline__ Elements<T, kWidth> load_own_elements_if(bool wanted, const T* from) {
  return elements_of_packs<kWidth>(
      from, [&](const T* pack) { return load_own_pack_if<T, Elements<T, kWidth>::kPack>(wanted, pack); });
}

template <class T, int kWidth>
__device__ __forceinline__ void store_elements(T* to, const Elements<T, kWidth>& elements) {
  using Stored = Elements<T, kWidth>;
#pragma unroll
  for (int i = 0; i < kWidth / Stored::kPack; ++i) store_pack(to + i * Stored::kPack, elements.packs[i]);
}

// A sample cut into units of kWidth channels of one pixel, kGroup / kWidth of them a group. Counts under 2^31
// (fits_units): a 64-bit division would be a call that spills.
struct Units {
  int64_t size;        // E
  uint32_t count;      // E / kWidth
  uint32_t per_pixel;  // C / kWidth
  uint32_t columns;    // W
  uint32_t groups;     // a sample: ceil(E / kGroup)
  uint32_t blocks;     // a sample
};

inline Units units_of(const MapShape& shape, int kWidth, int groups_of_block) {
  const int64_t size = shape.size(), groups = ceil_div(size, kGroup);
  return {size,
          static_cast<uint32_t>(size / kWidth),
          static_cast<uint32_t>(shape.channels / kWidth),
          static_cast<uint32_t>(shape.width),
          static_cast<uint32_t>(groups),
          static_cast<uint32_t>(ceil_div(groups, groups_of_block))};
}

// Whether a map can be cut into units and launched with a thread for every group.
inline bool fits_units(const MapShape& shape, int width) {
  const int64_t block = kGroup * kActivationThreads;
  return fits_grid(shape.size() / width + block) && fits_grid(shape.batch * ceil_div(shape.size(), block));
}

// kWidth of a map: a group where every pointer, those that are null aside, allows packs.
inline int width_of(int64_t channels, std::initializer_list<const void*> pointers) {
  bool packed = channels % kGroup == 0;
  for (const void* pointer : pointers) packed = packed && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  return packed ? kGroup : 1;
}

// Calls f(std::integral_constant<int, width>).
template <class F>
void dispatch_width(int width, F&& f) {
  if (width == kGroup) return f(std::integral_constant<int, kGroup>{});
  f(std::integral_constant<int, 1>{});
}

// Which unit of a sample, as a pixel and its first channel.
struct Place {
  int row, column, channel;

  template <int kWidth>
  static __device__ __forceinline__ Place of(uint32_t unit, const Units& units) {
    const uint32_t pixel = unit / units.per_pixel;
    return {static_cast<int>(pixel / units.columns), static_cast<int>(pixel % units.columns),
            static_cast<int>(unit % units.per_pixel) * kWidth};
  }
};

template <class T>
struct Bias {
  const T* narrow;                   // (C), or null
  const DeviceAccumulator<T>* wide;  // (C), or null

  explicit Bias(const BiasPointers& pointers)
      : narrow(static_cast<const T*>(pointers.narrow)), wide(static_cast<const DeviceAccumulator<T>*>(pointers.wide)) {}

  // Of the kWidth channels from `channel` on; zeros where there is none.
  template <int kWidth>
  __device__ __forceinline__ void load(int channel, DeviceAccumulator<T> (&values)[kWidth]) const {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = 0;
    if (narrow) {
      const auto loaded = load_elements<kWidth>(narrow + channel);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) values[k] = widen(loaded, k);
    } else if (wide) {
      const auto loaded = load_elements<kWidth>(wide + channel);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) values[k] = loaded[k];
    }
  }
};

}  // namespace perceptual_ops
