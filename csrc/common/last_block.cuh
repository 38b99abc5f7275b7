// Deterministic grid-wide reduction in one launch: each block writes its partial sum to a slot of its own, and the last
// block to arrive adds the slots in order, so that the bits do not depend on which block that is.
#pragma once

#include <cstdint>

#include "reduce.cuh"
#include "shared.cuh"

namespace perceptual_ops {

// True in every thread of the block that is the last of `expected` to call this with the same counter, which begins at
// zero. What the threads of all those blocks wrote before is then visible to it. Called by all threads of a block.
__device__ __forceinline__ bool arrives_last(uint32_t* counter, uint32_t expected) {
  PO_SHARED(uint32_t, before);
  __syncthreads();  // what the block wrote, before the fence: a fence of one thread covers what barriers showed it
  if (threadIdx.x == 0) {
    __threadfence();  // the block's slots, before the arrival that announces them
    before = atomicAdd(counter, 1u);
    __threadfence();  // the others' arrivals, before their slots are read
  }
  __syncthreads();
  return before + 1 == expected;
}

// Adds the values of all threads of `count` blocks, whose number `slot` among them is. True in every thread of the
// block that comes last; `sum` of its thread 0 is then the whole. Called by all threads of a block.
template <int kThreads, class Acc>
__device__ bool ends_sum(Acc value, uint32_t slot, uint32_t count,
                         Acc* slots,         // (count)
                         uint32_t* counter,  // zero before the first block
                         Acc& sum) {
  value = block_sum<kThreads>(value);
  if (threadIdx.x == 0) slots[slot] = value;
  if (!arrives_last(counter, count)) return false;
  sum = 0;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) sum += slots[i];
  sum = block_sum<kThreads>(sum);
  return true;
}

}  // namespace perceptual_ops
