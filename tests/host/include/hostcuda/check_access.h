// What the hardware demands of the addresses of wide accesses.
#pragma once

#include <cstdint>

#include "block.h"

namespace hostcuda {

inline void check_aligned(const char* name, const void* address, const Place& place) {
  const auto misplaced = reinterpret_cast<uintptr_t>(address) % 16;
  if (misplaced != 0) {
    fail("misaligned access: ", name, " at ", name_of(place), " of an address that is ", misplaced,
         " bytes past a multiple of 16");
  }
}

inline void check_shared(const char* name, const void* address, const Place& place) {
  Quiet quiet;
  if (!Block::current_block->shared.contains(address)) {
    fail(name, " at ", name_of(place), ": the address is not in the block's shared memory");
  }
}

inline void check_global(const char* name, const void* address, const Place& place) {
  Quiet quiet;
  if (Block::current_block->shared.contains(address)) {
    fail(name, " at ", name_of(place), ": the address is in the block's shared memory, expected global memory");
  }
}

}  // namespace hostcuda
