// What the hardware demands of the addresses of wide accesses. `name` is who accesses.
#pragma once

#include <cstdint>

#include "block.h"

namespace hostcuda {

[[noreturn]] void fail_misaligned(const char* name, const void* address, const Place& place);
void check_shared(const char* name, const void* address, const Place& place);
void check_global(const char* name, const void* address, const Place& place);

inline void check_aligned(const char* name, const void* address, const Place& place, size_t bytes = 16) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) fail_misaligned(name, address, place);
}

}  // namespace hostcuda
