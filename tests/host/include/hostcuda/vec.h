// csrc/common/vec.cuh on the host.
#pragma once

#include <cstring>

#include "check_access.h"

namespace perceptual_ops {

template <class T>
Pack<T> load_pack(const T* from, hostcuda::Place place = hostcuda::Place::current()) {
  hostcuda::check_aligned("load_pack", from, place);
  Pack<T> pack;
  std::memcpy(&pack, from, sizeof pack);
  return pack;
}

template <class T>
void store_pack(T* to, const Pack<T>& pack, hostcuda::Place place = hostcuda::Place::current()) {
  hostcuda::check_aligned("store_pack", to, place);
  std::memcpy(to, &pack, sizeof pack);
}

}  // namespace perceptual_ops
