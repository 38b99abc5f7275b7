// Sums over a block in a fixed order: shuffles within each warp, then the warps' sums in one warp.
#pragma once

#include "shared.cuh"

namespace perceptual_ops {

constexpr int kWarp = 32;

template <class Acc>
__device__ __forceinline__ Acc warp_sum(Acc value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// The sum of every thread's value, returned to thread 0. All kThreads threads of the block must call it; between two
// calls there must be a barrier.
template <int kThreads, class Acc>
__device__ Acc block_sum(Acc value) {
  static_assert(kThreads % kWarp == 0 && kThreads / kWarp <= kWarp, "one warp must be able to hold the warps' sums");
  using WarpSums = Acc[kThreads / kWarp];
  PO_SHARED(WarpSums, warp_sums);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  value = warp_sum(value);
  if (lane == 0) warp_sums[warp] = value;
  __syncthreads();
  if (warp != 0) return Acc(0);
  return warp_sum(lane < kThreads / kWarp ? warp_sums[lane] : Acc(0));
}

}  // namespace perceptual_ops
