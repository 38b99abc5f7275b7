// csrc/common/vec.cuh on the host.
#pragma once

#include <cstring>

#include "check_access.h"

namespace perceptual_ops {

template <class T, int kWidth>
DeviceAccumulator<T> widen(const Pack<T, kWidth>& pack, int k) {
  return widen(pack.values[k]);
}

template <class T, int kWidth>
Pack<T, kWidth> larger(const Pack<T, kWidth>& a, const Pack<T, kWidth>& b) {
  Pack<T, kWidth> pack;
  for (int k = 0; k < kWidth; ++k) {
    const auto first = widen(a, k), second = widen(b, k);
    pack.values[k] = first > second || first != first ? a.values[k] : b.values[k];
  }
  return pack;
}

template <class T, int kWidth>
uint32_t less(const Pack<T, kWidth>& a, const Pack<T, kWidth>& b) {
  uint32_t bits = 0;
  for (int k = 0; k < kWidth; ++k) bits |= uint32_t(!(widen(a, k) >= widen(b, k))) << nibble_of<T>(k);
  return bits;
}

template <class T, int kWidth>
Pack<T, kWidth> narrow_pack(const DeviceAccumulator<T>* values) {
  Pack<T, kWidth> pack;
  for (int k = 0; k < kWidth; ++k) pack.values[k] = narrow<T>(values[k]);
  return pack;
}

template <class T, int kWidth = kPackWidth<T>>
Pack<T, kWidth> load_pack(const T* from, hostcuda::Place place = hostcuda::Place::current()) {
  hostcuda::check_global("load_pack", from, place);
  if (kWidth > 1) hostcuda::check_aligned("load_pack", from, place, alignof(Pack<T, kWidth>));
  Pack<T, kWidth> pack;
  std::memcpy(&pack, from, sizeof pack);
  return pack;
}

template <class T, int kWidth = kPackWidth<T>>
Pack<T, kWidth> load_own_pack(const T* from, hostcuda::Place place = hostcuda::Place::current()) {
  return load_pack<T, kWidth>(from, place);
}

template <class T, int kWidth = kPackWidth<T>>
Pack<T, kWidth> load_pack_if(bool wanted, const T* from, hostcuda::Place place = hostcuda::Place::current()) {
  return wanted ? load_pack<T, kWidth>(from, place) : Pack<T, kWidth>{};
}

template <class T, int kWidth = kPackWidth<T>>
Pack<T, kWidth> load_own_pack_if(bool wanted, const T* from, hostcuda::Place place = hostcuda::Place::current()) {
  return load_pack_if<T, kWidth>(wanted, from, place);
}

template <class T, int kWidth>
void store_pack(T* to, const Pack<T, kWidth>& pack, hostcuda::Place place = hostcuda::Place::current()) {
  hostcuda::check_global("store_pack", to, place);
  if (kWidth > 1) hostcuda::check_aligned("store_pack", to, place);
  std::memcpy(to, &pack, sizeof pack);
}

}  // namespace perceptual_ops
