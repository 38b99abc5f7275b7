// csrc/common/shared.cuh on the host: arrays of the block that runs, filled with garbage when it begins.
#pragma once

#include "block.h"

namespace hostcuda {

template <class Array>
Array& shared_array(const void* site, const char* name) {
  Quiet quiet;
  return *reinterpret_cast<Array*>(Block::current_block->shared.array(site, name, sizeof(Array), alignof(Array)));
}

inline unsigned char* dynamic_shared() {
  Quiet quiet;
  return reinterpret_cast<unsigned char*>(Block::current_block->shared.dynamic());
}

}  // namespace hostcuda

// The address of a static tells arrays apart, also those of one template's instances.
#define PO_SHARED(Array, name)       \
  static const char name##_site = 0; \
  Array& name = hostcuda::shared_array<Array>(&name##_site, #name)

#define PO_DYNAMIC_SHARED(name) unsigned char* const name = hostcuda::dynamic_shared()
