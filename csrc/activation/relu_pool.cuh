// Kernel of a bias and ReLU whose map is kept, in-place, and of its pooling, in one pass: for windows that lie side by
// side, 2 x 2 at stride 2, over groups of eight channels. A thread makes a cell of 2 x 2 pixels and pools it as it has
// written it. Of windows that overlap a thread would read what another writes: they take two passes (relu_pool.cu).
//
// Bound by memory: the map is read once and written once, a quarter of it written as the result, a bit of signs an
// element and half a byte of codes a window. Targets on every architecture: at most 80 registers, for 3 blocks (768
// threads) an SM, in fp64 128 for 2; each thread has four groups of the map in flight together, 64 bytes in 16 bits,
// 128 in fp32: at least 48 KB per SM, where an H200 needs about 25 KB to saturate its memory, half of it for writing.
// No shared memory.
#pragma once

#include "bias_relu.cuh"
#include "cells.cuh"
#include "pool.cuh"

namespace perceptual_ops {

template <class T>
constexpr int kReluPoolBlocks = sizeof(T) == 8 ? 2 : 3;  // an SM

// Grid: N * blocks, blocks innermost.
template <class T, PoolKind kKind>
__global__ void __launch_bounds__(kActivationThreads, kReluPoolBlocks<T>)
    relu_pool_kernel(T* x,  // (N, H, W, C)
                     const Bias<T> bias,
                     T* __restrict__ pooled,       // (N, rows, columns, C)
                     uint8_t* __restrict__ signs,  // (N, groups), or null
                     uint8_t* __restrict__ codes,  // (N, code_bytes), or null
                     const PoolShape shape, const Cells cells) {
  using Acc = DeviceAccumulator<T>;
  using W = Window<kKind, kCell, kCell>;  // each cell is one
  const uint32_t n = blockIdx.x / cells.blocks;
  const uint32_t number = blockIdx.x % cells.blocks * kActivationThreads + threadIdx.x;
  if (number >= cells.count) return;
  const CellPlace place = CellPlace::of(number, cells);
  const uint32_t channels = cells.per_pixel * kGroup;
  const CellPixels pixels(n, place, shape.height, shape.width, channels);
  // Load.
  Elements<T, kGroup> elements[kCell][kCell];
#pragma unroll
  for (int dy = 0; dy < kCell; ++dy) {
#pragma unroll
    for (int dx = 0; dx < kCell; ++dx) elements[dy][dx] = load_own_elements<kGroup>(x + pixels.places[dy][dx]);
  }
  // Bias and ReLU, stored in place.
  Acc added[kGroup];
  bias.load(place.unit * kGroup, added);
#pragma unroll
  for (int dy = 0; dy < kCell; ++dy) {
#pragma unroll
    for (int dx = 0; dx < kCell; ++dx) {
      const unsigned bits = rectify(added, elements[dy][dx]);  // outside of the map the same as before it
      store_elements(x + pixels.places[dy][dx], elements[dy][dx]);
      if (signs) signs[pixels.places[dy][dx] / kGroup] = static_cast<uint8_t>(bits);
    }
  }
  if (!pixels.exists[kCell - 1][kCell - 1]) return;  // no window
  // Pool, store.
  const auto window = [&](int dy, int dx) { return elements[dy][dx]; };
  const uint32_t unit = (place.row * shape.columns + place.column) * cells.per_pixel + place.unit;
  Acc value[kGroup];
#pragma unroll
  for (int k = 0; k < kGroup; ++k) added[k] = Acc(-0.0);  // changes nothing, not even the sign of a zero
  if constexpr (kKind == PoolKind::kAverage) {
    take_mean<W>(window, shape, added, false, value);
  } else {
    int code[kGroup];
    take_maximum<W>(window, shape, added, false, value, code);
    const auto word = word_of<typename W::Codes>(code, W::bits(shape));
    if (codes) store_codes<kGroup>(codes + n * shape.code_bytes, unit, W::bits(shape), kGroup, word);
  }
  store_elements(pooled + (int64_t(n) * shape.rows * shape.columns * cells.per_pixel + unit) * kGroup,
                 narrow_elements<T>(value));
}

}  // namespace perceptual_ops
