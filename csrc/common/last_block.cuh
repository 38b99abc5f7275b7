// The sum that many blocks make together in one launch: each leaves its part in a slot of its own, and the block that
// comes last adds the slots up in their order, so that the bits do not depend on who that is.
#pragma once

#include <cstdint>

#include "shared.cuh"

namespace perceptual_ops {

// True in every thread of the block that is the last of `expected` to call this with the same counter, which begins at
// zero. What the threads of all those blocks wrote before is then visible to it. Called by all threads of a block.
__device__ __forceinline__ bool arrives_last(uint32_t* counter, uint32_t expected) {
  PO_SHARED(uint32_t, before);
  __threadfence();  // each thread's slots, before the arrival that announces them
  __syncthreads();
  if (threadIdx.x == 0) before = atomicAdd(counter, 1u);
  __syncthreads();
  const bool last = before + 1 == expected;
  if (last) __threadfence();  // the others' arrivals, before their slots are read
  return last;
}

}  // namespace perceptual_ops
