// Kernels of the normalisation of images and its gradient: from any strides to channels_last and back. A thread takes a
// pixel, so that accesses to planes are coalesced; interleaved colours are served by the cache.
//
// Bound by memory, on maps of three channels beside which those of the trunk are large. Targets on every architecture:
// at most 64 registers, for 4 blocks (1024 threads) per SM, each thread with the loads of all colours in flight before
// it uses the first: 6 to 24 KB per SM. No shared memory.
#pragma once

#include "../common/cuda_element.cuh"
#include "normalize.h"

namespace perceptual_ops {

constexpr int kPixelThreads = 256;
constexpr int kPixelBlocks = 4;  // an SM
constexpr int kColours = 3;      // channels whose loads start together, where they come in threes

// Pixels of a sample, all counts under 2^31 (normalize.cu checks): a 64-bit division would be a call that spills.
struct Pixels {
  int channels;      // C
  uint32_t columns;  // W
  uint32_t count;    // H * W
  uint32_t blocks;   // a sample
};

// The sample and the pixel of a thread.
struct Pixel {
  uint32_t n, number;

  explicit __device__ __forceinline__ Pixel(const Pixels& pixels)
      : n(blockIdx.x / pixels.blocks), number(blockIdx.x % pixels.blocks * kPixelThreads + threadIdx.x) {}

  __device__ __forceinline__ int64_t offset(const Pixels& pixels, const MapStrides& strides) const {
    return n * strides.n + number / pixels.columns * strides.h + number % pixels.columns * strides.w;
  }
  __device__ __forceinline__ int64_t dense_offset(const Pixels& pixels) const {
    return (int64_t(n) * pixels.count + number) * pixels.channels;
  }
};

template <class In, class Out>
using NormalizeAccumulator = std::conditional_t<std::is_same_v<In, double>, double, DeviceAccumulator<Out>>;

// Grid: N * blocks, blocks innermost.
template <class In, class Out, int kTogether>
__global__ void __launch_bounds__(kPixelThreads, kPixelBlocks)
    normalize_kernel(const In* __restrict__ images,                            // (N, C, H, W)
                     const MapStrides strides,                                 // of the images
                     const NormalizeAccumulator<In, Out>* __restrict__ scale,  // (C)
                     const NormalizeAccumulator<In, Out>* __restrict__ shift,  // (C)
                     Out* __restrict__ result,                                 // (N, H, W, C)
                     const Pixels pixels) {
  using Acc = NormalizeAccumulator<In, Out>;
  const Pixel pixel(pixels);
  if (pixel.number >= pixels.count) return;
  const In* from = images + pixel.offset(pixels, strides);
  Out* to = result + pixel.dense_offset(pixels);
  for (int first = 0; first < pixels.channels; first += kTogether) {
    In values[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) values[k] = from[(first + k) * strides.c];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int c = first + k;
      const Acc value = Acc(widen(values[k])) * scale[c] + shift[c];
      to[c] = narrow<Out>(static_cast<DeviceAccumulator<Out>>(value));
    }
  }
}

// Grid: N * blocks, blocks innermost.
template <class T, int kTogether>
__global__ void __launch_bounds__(kPixelThreads, kPixelBlocks)
    normalize_backward_kernel(const T* __restrict__ grad,                       // (N, H, W, C)
                              const DeviceAccumulator<T>* __restrict__ scale,   // (C)
                              const DeviceAccumulator<T>* __restrict__ factor,  // (N), or null
                              const DeviceAccumulator<T>* __restrict__ add,     // (N, C, H, W), or null
                              const MapStrides add_strides,
                              DeviceAccumulator<T>* __restrict__ result,  // (N, C, H, W)
                              const MapStrides result_strides, const Pixels pixels) {
  using Acc = DeviceAccumulator<T>;
  const Pixel pixel(pixels);
  if (pixel.number >= pixels.count) return;
  const T* from = grad + pixel.dense_offset(pixels);
  const Acc* added = add ? add + pixel.offset(pixels, add_strides) : nullptr;
  Acc* to = result + pixel.offset(pixels, result_strides);
  const Acc upstream = factor ? factor[pixel.n] : Acc(1);
  for (int first = 0; first < pixels.channels; first += kTogether) {
    T values[kTogether];
    Acc others[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int c = first + k;
      values[k] = from[c];
      others[k] = added ? added[c * add_strides.c] : Acc(0);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int c = first + k;
      to[c * result_strides.c] = upstream * scale[c] * widen(values[k]) + others[k];
    }
  }
}

}  // namespace perceptual_ops
