// Kernel of the poolings' backward, fused with the ReLU's (gate.cuh). A thread computes a group of the map's gradient
// and gathers from the windows that cover it, in their order: no atomics, and a deterministic sum.
//
// Windows that unpool_cells.cuh is compiled for go there; this kernel takes any window, by groups where channels come
// in eights.
//
// Bound by memory: the map is written once, up to two maps of its size are read, and of the windows' gradients and
// codes each is read once from memory and otherwise from the cache. Targets on every architecture: at most 80
// registers, for 3 blocks (768 threads) an SM, in fp64 and for "blur" 128 for 2, for both 255 for 1; each thread has
// what it adds and its first window in flight together, 20 to 50 bytes in 16 bits, 36 to 100 in fp32: 15 to 75 KB an
// SM, where an H200 needs about 25 KB to saturate its memory, half of it for writing. Shared memory: under 100 bytes.
#pragma once

#include "gate.cuh"
#include "window.cuh"

namespace perceptual_ops {

template <class T, class W>
constexpr int kUnpoolBlocks = (sizeof(T) == 8 ? 2 : 3) - (W::kKind == PoolKind::kBlur);  // an SM

// The first of the windows of `size` elements, `step` apart, that covers element `place`.
__device__ __forceinline__ int first_over(int place, int size, int step) {
  return place < size ? 0 : (place - size) / step + 1;
}

// Adds `weight` times kWidth elements.
template <int kWidth, class T, class Acc>
__device__ __forceinline__ void add_weighted(const Elements<T, kWidth>& elements, Acc weight, Acc (&sum)[kWidth]) {
#pragma unroll
  for (int k = 0; k < kWidth; ++k) sum[k] += weight * widen(elements, k);
}

// Calls f(place, weight) for every element of a filtered axis of `filtered` elements that takes part of element `i` of
// the `count` maxima along it: where it stands in their bordered axis, and where the border repeats it.
template <class Acc, class F>
__device__ __forceinline__ void for_each_filtered(int i, int count, int filtered, int stride, F&& f) {
  constexpr int kTaps = 3, kPadding = Pooling::kBlurPadding;
#pragma unroll 1
  for (int copy = 0; copy < 3; ++copy) {
    int place = i;
    if (copy == 1) place = -i;
    if (copy == 2) place = 2 * (count - 1) - i;
    if ((copy > 0 && place == i) || place < -kPadding || place >= count + kPadding) continue;
    place += kPadding;
    const int last = min(place / stride, filtered - 1);
    for (int o = first_over(place, kTaps, stride); o <= last; ++o) f(o, binomial<Acc>(place - o * stride));
  }
}

// The gradient with respect to the maximum of a window of "blur", kWidth channels.
template <class W, int kWidth, class T, class Acc>
__device__ __forceinline__ void gather_filtered(const T* grad, const PoolShape& shape, int channels, int row,
                                                int column, Acc (&sum)[kWidth]) {
  for_each_filtered<Acc>(row, shape.rows, shape.out_height, W::stride(shape), [&](int y, Acc weight_y) {
    for_each_filtered<Acc>(column, shape.columns, shape.out_width, W::stride(shape), [&](int x, Acc weight_x) {
      const auto values = load_elements<kWidth>(grad + (int64_t(y) * shape.out_width + x) * channels);
      add_weighted(values, weight_y * weight_x, sum);
    });
  });
}

// The gradient of the pooling with respect to kWidth channels of a pixel.
template <class W, int kWidth, class T, class Acc>
__device__ __forceinline__ void gather(const T* __restrict__ grad,         // of the sample, from the first channel on
                                       const uint8_t* __restrict__ codes,  // of the sample, (code_bytes), or null
                                       const PoolShape& shape, const Units& units, const Place& place,
                                       Acc (&sum)[kWidth]) {
  const int kernel = W::kernel(shape), step = W::step(shape), channels = units.per_pixel * kWidth;
  const int first_row = first_over(place.row, kernel, step), last_row = min(place.row / step, shape.rows - 1);
  const int first_column = first_over(place.column, kernel, step);
  const int last_column = min(place.column / step, shape.columns - 1);
  for (int row = first_row; row <= last_row; ++row) {
    for (int column = first_column; column <= last_column; ++column) {
      const int window = row * shape.columns + column;
      if constexpr (W::kKind == PoolKind::kAverage) {
        const auto values = load_elements<kWidth>(grad + int64_t(window) * channels);
        add_weighted(values, Acc(1) / Acc(kernel * kernel), sum);
      } else {
        const uint32_t unit = uint32_t(window) * units.per_pixel + place.channel / kWidth;
        const auto word = load_codes<kWidth, typename W::Codes>(codes, unit, W::bits(shape));
        Acc of_maximum[kWidth] = {};
        if constexpr (W::kKind == PoolKind::kBlur) {
          gather_filtered<W>(grad, shape, channels, row, column, of_maximum);
        } else {
          add_weighted(load_elements<kWidth>(grad + int64_t(window) * channels), Acc(1), of_maximum);
        }
        const unsigned here = (place.row - row * step) * kernel + place.column - column * step;
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          const unsigned code = unsigned(word >> (k * W::bits(shape))) & W::nowhere(shape);
          sum[k] += code == here ? of_maximum[k] : Acc(0);
        }
      }
    }
  }
}

// Grid: N * blocks, blocks innermost.
template <class T, int kWidth, class W>
__global__ void __launch_bounds__(kActivationThreads, kUnpoolBlocks<T, W>)
    pool_backward_kernel(T* x,                               // (N, H, W, C)
                         const T* __restrict__ grad,         // (N, out_height, out_width, C)
                         const uint8_t* __restrict__ codes,  // (N, code_bytes), or null
                         const Gate<T> gate, const PoolShape shape,
                         const Units units) {  // of the map
  using Acc = DeviceAccumulator<T>;
  constexpr int kParts = kGroup / kWidth;
  const uint32_t n = blockIdx.x / units.blocks;
  const uint32_t group = blockIdx.x % units.blocks * kActivationThreads + threadIdx.x;
  typename Gate<T>::Bits largest = 0;
  if (group < units.groups) {
    const Acc factor = gate.factor_of(n);
    const unsigned signs = gate.signs_of(int64_t(n) * units.groups + group);
    for (int part = 0; part < kParts; ++part) {
      const uint32_t unit = group * kParts + part;
      if (unit >= units.count) break;
      const int64_t element = n * units.size + int64_t(unit) * kWidth;
      Added<T, kWidth> added;
      added.load(gate, element);
      const Place place = Place::of<kWidth>(unit, units);
      const int channels = units.per_pixel * kWidth;
      const T* of_sample = grad + int64_t(n) * shape.out_height * shape.out_width * channels + place.channel;
      const uint8_t* of_windows = codes ? codes + n * shape.code_bytes : nullptr;
      Acc gradient[kWidth] = {};
      gather<W>(of_sample, of_windows, shape, units, place, gradient);
      store_elements(x + element, added.passed(gradient, factor, signs >> (part * kWidth), largest));
    }
  }
  // Reduce.
  if (gate.maxima) raise_maximum<kActivationThreads>(largest, gate.maxima + n);
}

}  // namespace perceptual_ops
