// Kernel of the poolings after a bias and ReLU; blur.cuh filters the maxima. A thread makes a group (groups.cuh) of the
// result: of every window of eight channels the maximum and its position, or the mean.
//
// Bound by memory: the map is read once, a quarter of it written, and half a byte of codes a window. Windows that
// overlap meet in the cache. Targets on every architecture: at most 128 registers, for 2 blocks (512 threads) per SM;
// each thread has the elements of a small window in flight together, of 2 x 2 64 bytes in 16 bits, 128 in fp32: at
// least 32 KB per SM, where an H200 needs about 25 KB to saturate its memory, some of it for writing. No shared memory.
#pragma once

#include "window.cuh"

namespace perceptual_ops {

constexpr int kPoolBlocks = 2;  // an SM

// Elements of a window in memory.
template <int kWidth, class T>
struct WindowAt {
  const T* corner;
  int width, channels;  // of the map

  __device__ __forceinline__ Elements<T, kWidth> operator()(int dy, int dx) const {
    return load_elements<kWidth>(corner + (int64_t(dy) * width + dx) * channels);
  }
};

// Of kWidth channels of a window, whose elements are at(dy, dx): the maximum and its position, the first of equals, the
// last of NaNs. Through the ReLU if `relu`, with no position where it does not pass.
template <class W, int kWidth, class At, class Acc>
__device__ __forceinline__ void take_maximum(const At& at, const PoolShape& shape, const Acc (&bias)[kWidth], bool relu,
                                             Acc (&best)[kWidth], int (&code)[kWidth]) {
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    best[k] = -Acc(INFINITY);
    code[k] = 0;
  }
#pragma unroll
  for (int dy = 0; dy < W::kernel(shape); ++dy) {
#pragma unroll
    for (int dx = 0; dx < W::kernel(shape); ++dx) {
      const auto values = at(dy, dx);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const Acc value = widen(values, k) + bias[k];
        const bool better = value > best[k] || value != value;
        best[k] = better ? value : best[k];
        code[k] = better ? dy * W::kernel(shape) + dx : code[k];
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const bool blocked = relu && best[k] <= Acc(0);
    best[k] = blocked ? Acc(0) : best[k];
    code[k] = blocked ? W::nowhere(shape) : code[k];
  }
}

template <class W, int kWidth, class At, class Acc>
__device__ __forceinline__ void take_mean(const At& at, const PoolShape& shape, const Acc (&bias)[kWidth], bool relu,
                                          Acc (&mean)[kWidth]) {
  const Acc share = Acc(1) / Acc(W::kernel(shape) * W::kernel(shape));
  const Acc least = relu ? Acc(0) : -Acc(INFINITY);  // no branch, so that all loads start together
#pragma unroll
  for (int k = 0; k < kWidth; ++k) mean[k] = 0;
#pragma unroll
  for (int dy = 0; dy < W::kernel(shape); ++dy) {
#pragma unroll
    for (int dx = 0; dx < W::kernel(shape); ++dx) {
      const auto values = at(dy, dx);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const Acc value = widen(values, k) + bias[k];
        mean[k] += value <= least ? least : value;
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kWidth; ++k) mean[k] *= share;
}

template <class Codes, int kWidth>
__device__ __forceinline__ Codes word_of(const int (&code)[kWidth], int bits) {
  Codes word = 0;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) word |= Codes(code[k]) << (k * bits);
  return word;
}

// "max" and "average". Grid: N * blocks, blocks innermost. `pooled` may be null where codes alone are wanted.
template <class T, int kWidth, class W>
__global__ void __launch_bounds__(kActivationThreads, kPoolBlocks)
    pool_kernel(const T* __restrict__ x,  // (N, H, W, C)
                const Bias<T> bias, bool relu,
                T* __restrict__ pooled,       // (N, rows, columns, C), or null
                uint8_t* __restrict__ codes,  // (N, code_bytes), or null
                const PoolShape shape,
                const Units units) {  // of the map of windows
  using Acc = DeviceAccumulator<T>;
  using Codes = typename W::Codes;
  constexpr int kParts = kGroup / kWidth;
  const uint32_t n = blockIdx.x / units.blocks;
  const uint32_t group = blockIdx.x % units.blocks * kActivationThreads + threadIdx.x;
  if (group >= units.groups) return;
  const int channels = units.per_pixel * kWidth, step = W::step(shape);
  Codes word = 0;
  int count = 0;  // of codes
  for (int part = 0; part < kParts; ++part) {
    const uint32_t unit = group * kParts + part;
    if (unit >= units.count) break;
    const Place place = Place::of<kWidth>(unit, units);
    const int64_t corner = (int64_t(n) * shape.height + place.row * step) * shape.width + place.column * step;
    const WindowAt<kWidth, T> window{x + corner * channels + place.channel, shape.width, channels};
    Acc added[kWidth], value[kWidth];
    bias.load(place.channel, added);
    if constexpr (W::kKind == PoolKind::kAverage) {
      take_mean<W>(window, shape, added, relu, value);
    } else {
      int code[kWidth];
      take_maximum<W>(window, shape, added, relu, value, code);
      word |= word_of<Codes>(code, W::bits(shape)) << (part * W::bits(shape));
      count += kWidth;
    }
    if (pooled == nullptr) continue;
    store_elements(pooled + n * units.size + int64_t(unit) * kWidth, narrow_elements<T>(value));
  }
  if (codes) store_codes<kWidth>(codes + n * shape.code_bytes, group, W::bits(shape), count, word);
}

}  // namespace perceptual_ops
