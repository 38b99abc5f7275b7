// Kernels of the bias and ReLU after a convolution, its epilogue as a pass of its own, in-place. A thread takes groups
// (groups.cuh) with a stride of the block's threads, so that accesses of a warp are coalesced.
//
// Bound by memory: an element is read once and written once, backward reads it from up to three maps. Targets on every
// architecture: at most 64 registers, for 4 blocks (1024 threads) per SM, of the backward 80 for 3; each thread has 64
// bytes of the map in flight before it uses the first, backward 32 bytes of each map (64 in fp64): together at least 64
// and 24 KB per SM, where an H200 needs about 25 KB to saturate its memory, half of it for writing. Shared memory:
// under 100 bytes.
#pragma once

#include "gate.cuh"

namespace perceptual_ops {

constexpr int kReluBlocks = 4;  // an SM
constexpr int kReluBackwardBlocks = 3;

// Groups of a thread: `kBytes` of a map, at least one group.
template <class T, int kWidth, int kBytes>
constexpr int kRoundsOf = kWidth == 1 || kBytes < kGroup * int(sizeof(T)) ? 1 : kBytes / (kGroup * int(sizeof(T)));
template <class T, int kWidth>
constexpr int kReluRounds = kRoundsOf<T, kWidth, 64>;
template <class T, int kWidth>
constexpr int kReluBackwardRounds = kRoundsOf<T, kWidth, 32>;

// elements = relu(elements + bias) -> where it passes, the first in the lowest bit.
template <int kWidth, class T>
__device__ __forceinline__ unsigned rectify(const DeviceAccumulator<T> (&bias)[kWidth], Elements<T, kWidth>& elements) {
  using Acc = DeviceAccumulator<T>;
  unsigned signs = 0;
  Acc values[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const Acc value = widen(elements, k) + bias[k];
    const bool passes = !(value <= Acc(0));  // NaN too
    signs |= unsigned(passes) << k;
    values[k] = passes ? value : Acc(0);
  }
  elements = narrow_elements<T>(values);
  return signs;
}

// Grid: N * blocks, blocks innermost.
template <class T, int kWidth>
__global__ void __launch_bounds__(kActivationThreads, kReluBlocks)
    bias_relu_kernel(T* x,  // (N, H, W, C)
                     const Bias<T> bias,
                     uint8_t* __restrict__ signs,  // (N, groups), or null
                     const Units units) {
  using Acc = DeviceAccumulator<T>;
  constexpr int kRounds = kReluRounds<T, kWidth>, kParts = kGroup / kWidth;
  const uint32_t n = blockIdx.x / units.blocks, block = blockIdx.x % units.blocks;
  const uint32_t first = block * kRounds * kActivationThreads + threadIdx.x;
  T* sample = x + n * units.size;
  Elements<T, kWidth> elements[kRounds][kParts];
  // Load.
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const uint32_t unit = (first + r * kActivationThreads) * kParts + part;
      if (unit < units.count) elements[r][part] = load_own_elements<kWidth>(sample + int64_t(unit) * kWidth);
    }
  }
  // Compute, store.
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const uint32_t group = first + r * kActivationThreads;
    if (group >= units.groups) return;
    unsigned bits = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const uint32_t unit = group * kParts + part;
      if (unit >= units.count) break;
      Acc added[kWidth];
      bias.load(unit % units.per_pixel * kWidth, added);
      bits |= rectify(added, elements[r][part]) << (part * kWidth);
      store_elements(sample + int64_t(unit) * kWidth, elements[r][part]);
    }
    if (signs) signs[int64_t(n) * units.groups + group] = static_cast<uint8_t>(bits);
  }
}

// Grid: N * blocks, blocks innermost.
template <class T, int kWidth>
__global__ void __launch_bounds__(kActivationThreads, kReluBackwardBlocks)
    bias_relu_backward_kernel(T* grad,  // (N, H, W, C)
                              const Gate<T> gate, const Units units) {
  using Acc = DeviceAccumulator<T>;
  constexpr int kRounds = kReluBackwardRounds<T, kWidth>, kParts = kGroup / kWidth;
  const uint32_t n = blockIdx.x / units.blocks, block = blockIdx.x % units.blocks;
  const uint32_t first = block * kRounds * kActivationThreads + threadIdx.x;
  Elements<T, kWidth> incoming[kRounds][kParts];
  Added<T, kWidth> added[kRounds][kParts];
  unsigned signs[kRounds];
  // Load.
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const uint32_t group = first + r * kActivationThreads;
    signs[r] = group < units.groups ? gate.signs_of(int64_t(n) * units.groups + group) : 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const uint32_t unit = group * kParts + part;
      if (unit >= units.count) break;
      incoming[r][part] = load_own_elements<kWidth>(grad + n * units.size + int64_t(unit) * kWidth);
      added[r][part].load(gate, n * units.size + int64_t(unit) * kWidth);
    }
  }
  const Acc factor = gate.factor_of(n);
  typename Gate<T>::Bits largest = 0;
  // Compute, store.
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const uint32_t unit = (first + r * kActivationThreads) * kParts + part;
      if (unit >= units.count) break;
      Acc gradient[kWidth];
#pragma unroll
      for (int k = 0; k < kWidth; ++k) gradient[k] = widen(incoming[r][part], k);
      store_elements(grad + n * units.size + int64_t(unit) * kWidth,
                     added[r][part].passed(gradient, factor, signs[r] >> (part * kWidth), largest));
    }
  }
  // Reduce.
  if (gate.maxima) raise_maximum<kActivationThreads>(largest, gate.maxima + n);
}

}  // namespace perceptual_ops
