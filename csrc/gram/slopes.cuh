// Prepares S for the gradient: D + D^T of an upstream gradient, and row-scaled S in 16 bits.
//
// Targets: 128 threads, 42 registers (12 blocks per SM): short, memory-bound, one block per row of a matrix.
#pragma once

#include "../common/cuda_element.cuh"
#include "../common/reduce.cuh"
#include "plan.h"

namespace perceptual_ops {

constexpr int kRowThreads = 128;
constexpr int kRowBlocksPerSm = 12;

// Grid: N * C.
template <class Acc>
__global__ void __launch_bounds__(kRowThreads, kRowBlocksPerSm)
    symmetrise_kernel(const Acc* __restrict__ slopes,  // (N, C, C)
                      uint32_t channels, Acc scale,
                      Acc* __restrict__ symmetric) {  // (N, C, C)
  const uint32_t row = blockIdx.x % channels;
  const int64_t first = blockIdx.x / channels * (int64_t(channels) * channels);
  for (uint32_t column = threadIdx.x; column < channels; column += kRowThreads) {
    const int64_t place = int64_t(row) * channels + column, mirrored = int64_t(column) * channels + row;
    symmetric[first + place] = scale * (slopes[first + place] + slopes[first + mirrored]);
  }
}

struct NarrowLayer {
  const float* s;  // (N, C, C)
  void* narrow;    // (N, C, pitch), 16 bits
  float* scale;    // (N, C)
  uint32_t channels;
  uint32_t pitch;      // elements from row to row, a multiple of 8
  uint32_t first_row;  // of all layers' N * C
};

struct NarrowTable {
  int layers;
  NarrowLayer entries[kMaxLayers];
};

// The power of two that scales `largest` to [1, 2), where fp16 neither overflows nor loses its upper bits. 1 for what
// has no such power: zero, infinity, NaN.
__device__ __forceinline__ float power_to_one(float largest) {
  const uint32_t exponent = __float_as_uint(largest) >> 23;
  return exponent == 0 || exponent >= 254 ? 1.0f : __uint_as_float((254 - exponent) << 23);
}

// Rows of S times a power of two, in the maps' dtype, and the factor that undoes it. Grid: the rows of all layers.
template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocksPerSm)
    narrow_kernel(const __grid_constant__ NarrowTable table) {
  using WarpLargest = float[kRowThreads / kWarp];
  PO_SHARED(WarpLargest, warp_largest);
  int l = 0;
  while (l + 1 < table.layers && table.entries[l + 1].first_row <= blockIdx.x) ++l;
  const NarrowLayer& layer = table.entries[l];
  const int64_t row = blockIdx.x - layer.first_row;
  const float* s = layer.s + row * layer.channels;
  // Reduce: the largest magnitude of the row.
  float largest = 0;
  for (uint32_t i = threadIdx.x; i < layer.channels; i += kRowThreads) largest = max(largest, fabsf(s[i]));
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
  }
  if (threadIdx.x % kWarp == 0) warp_largest[threadIdx.x / kWarp] = largest;
  __syncthreads();
  for (float other : warp_largest) largest = max(largest, other);

  // Scale and store.
  const float power = power_to_one(largest);
  T* out = static_cast<T*>(layer.narrow) + row * layer.pitch;
  for (uint32_t i = threadIdx.x; i < layer.channels; i += kRowThreads) out[i] = narrow<T>(power * s[i]);
  if (threadIdx.x == 0) layer.scale[row] = 1.0f / power;
}

}  // namespace perceptual_ops
