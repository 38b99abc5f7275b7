// cp.async: copies from global to shared memory that bypass registers, in groups that a thread waits for in order.
#pragma once

#ifdef __CUDACC__

#include <cstdint>

namespace perceptual_ops {

// Starts a copy of 16 bytes between addresses that are multiples of 16. Only the first `bytes` are read, the others are
// zero in the copy. Until the wait, the destination holds neither the old nor the new data.
__device__ __forceinline__ void copy_async(void* to_shared, const void* from_global, int bytes = 16) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from_global), "r"(bytes) : "memory");
}

// Ends the group of the copies started since the last call; a group may be empty.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the kPending latest groups of this thread are in flight. Other threads see the data after a
// barrier.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace perceptual_ops

#else
#include <hostcuda/async_copy.h>
#endif
