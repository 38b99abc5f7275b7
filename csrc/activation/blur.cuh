// Kernel of "blur": maxima of windows after a bias and ReLU (pool.cuh), and a binomial filter over them. A thread makes
// a group (groups.cuh) of the result, and writes the codes of a cell of stride x stride windows, which are its own. 2 x
// 2 windows at stride 2 meet in 16 pixels, which it loads once; all others, those at the borders and those with NaN it
// takes window by window from the map.
//
// Bound by memory: the map is read once, a quarter of it written, and half a byte of codes a window; a thread asks the
// cache for 16 packs where 4 come from memory. Targets on every architecture: at most 128 registers, for 2 blocks (512
// threads) an SM, in fp32 and fp64 255 for 1; each thread has 16 loads of 16 bytes in flight together: 64 KB per SM,
// where an H200 needs about 25 KB to saturate its memory, some of it for writing. No shared memory.
#pragma once

#include "pool.cuh"

namespace perceptual_ops {

template <class T>
constexpr int kBlurBlocks = sizeof(T) == 2 ? 2 : 1;  // an SM

// The element of `count` that stands at `place` of their axis with a reflected border of Pooling::kBlurPadding.
__device__ __forceinline__ int reflected(int place, int count) {
  return place < 0 ? -place : place >= count ? 2 * (count - 1) - place : place;
}

// The result at stride 2 of the maxima of 2 x 2 windows where the border repeats none: of 4 x 4 pixels, each of which
// is loaded once. They are compared as they are, which leads to the same maxima as after the bias; two side by side are
// compared once for both windows that have them.
template <class T>
struct BlurredCell {
  using Acc = DeviceAccumulator<T>;
  static constexpr int kPack = kPackWidth<T>, kTaps = 3, kPixels = kTaps + 1;
  static constexpr int kOwn = 2;  // windows along an axis whose codes it knows, from the first on

  Acc sums[kGroup];
  // A bit for each channel, at its nibble_of.
  uint32_t is_right[kTaps][kOwn] = {};  // of two pixels side by side, the right one is the larger
  uint32_t is_below[kOwn][kOwn] = {};   // of the two rows of a window, the second
  uint32_t is_none[kOwn][kOwn] = {};    // nothing of a window passes

  // Whether no window of result `place` is repeated, along an axis of `count` windows.
  static __device__ __forceinline__ bool is_inside(int place, int count) { return place > 0 && 2 * place < count; }

  // False where it meets NaN, whose position it does not tell, or a bias that makes some of a number.
  __device__ __forceinline__ bool make(const T* corner, int64_t line, int channels, const Bias<T>& bias, int channel,
                                       bool relu) {
    bool is_finite = true;
#pragma unroll
    for (int first = 0; first < kGroup; first += kPack) {
      Pack<T, kPack> windows[kTaps][kTaps];
      take_maxima(corner + first, line, channels, nibble_of<T>(first), windows);
      Acc added[kPack];
      bias.load(channel + first, added);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        sums[first + k] = filtered(windows, k, 1u << nibble_of<T>(first + k), added[k], relu);
        is_finite = is_finite && sums[first + k] == sums[first + k] && fabs(added[k]) < Acc(INFINITY);
      }
    }
    return is_finite;
  }

  // Of the window at (y, x).
  __device__ __forceinline__ uint32_t codes(int y, int x) const {
    const uint32_t below = is_below[y][x], right = (is_right[y + 1][x] & below) | (is_right[y][x] & ~below);
    const uint32_t word = (2 * below) | right | (15 * is_none[y][x]);
    if constexpr (sizeof(T) > 2) return word;
    const auto spread = [](uint32_t half) {
      half = (half | half << 8) & 0x00ff00ffu;
      return (half | half << 4) & 0x0f0f0f0fu;
    };
    return spread(word & 0xffffu) | spread(word >> 16) << 4;
  }

 private:
  // Of a pack of channels from `nibble` on.
  __device__ __forceinline__ void take_maxima(const T* corner, int64_t line, int channels, int nibble,
                                              Pack<T, kPack> (&windows)[kTaps][kTaps]) {
    Pack<T, kPack> pixels[kPixels][kPixels], pairs[kPixels][kTaps];
#pragma unroll
    for (int y = 0; y < kPixels; ++y) {
#pragma unroll
      for (int x = 0; x < kPixels; ++x) pixels[y][x] = load_pack<T, kPack>(corner + y * line + x * channels);
    }
#pragma unroll
    for (int y = 0; y < kPixels; ++y) {
#pragma unroll
      for (int x = 0; x < kTaps; ++x) {
        pairs[y][x] = larger(pixels[y][x], pixels[y][x + 1]);
        if (y < kTaps && x < kOwn) is_right[y][x] |= less(pixels[y][x], pixels[y][x + 1]) << nibble;
      }
    }
#pragma unroll
    for (int y = 0; y < kTaps; ++y) {
#pragma unroll
      for (int x = 0; x < kTaps; ++x) {
        windows[y][x] = larger(pairs[y][x], pairs[y + 1][x]);
        if (y < kOwn && x < kOwn) is_below[y][x] |= less(pairs[y][x], pairs[y + 1][x]) << nibble;
      }
    }
  }

  // The maxima of a channel, through bias and ReLU and filtered.
  __device__ __forceinline__ Acc filtered(const Pack<T, kPack> (&windows)[kTaps][kTaps], int k, uint32_t bit, Acc bias,
                                          bool relu) {
    const Acc least = relu ? Acc(0) : -Acc(INFINITY);
    Acc sum = 0;
#pragma unroll
    for (int y = 0; y < kTaps; ++y) {
      Acc of_row = 0;
#pragma unroll
      for (int x = 0; x < kTaps; ++x) {
        const Acc value = widen(windows[y][x], k) + bias;
        const Acc best = larger(Pack<Acc, 1>{value}, Pack<Acc, 1>{least}).values[0];
        of_row += binomial<Acc>(x) * best;
        if (y < kOwn && x < kOwn && relu && best <= Acc(0)) is_none[y][x] |= bit;
      }
      sum += binomial<Acc>(y) * of_row;
    }
    return sum;
  }
};

// "blur". Grid: N * blocks, blocks innermost. Codes only of groups: of single elements two share a byte.
template <class T, int kWidth, class W>
__global__ void __launch_bounds__(kActivationThreads, kBlurBlocks<T>)
    blur_kernel(const T* __restrict__ x,  // (N, H, W, C)
                const Bias<T> bias, bool relu,
                T* __restrict__ pooled,       // (N, out_height, out_width, C)
                uint8_t* __restrict__ codes,  // (N, code_bytes), or null
                const PoolShape shape,
                const Units units) {  // of the result
  using Acc = DeviceAccumulator<T>;
  constexpr int kParts = kGroup / kWidth, kTaps = 3;
  const uint32_t n = blockIdx.x / units.blocks;
  const uint32_t group = blockIdx.x % units.blocks * kActivationThreads + threadIdx.x;
  const int channels = units.per_pixel * kWidth, stride = W::stride(shape);
  // The windows that are filtered, and those of the cell of stride x stride that begins with them.
  const int reach = max(kTaps, stride);
  for (int part = 0; part < kParts; ++part) {
    const uint32_t unit = group * kParts + part;
    if (unit >= units.count) return;
    const Place place = Place::of<kWidth>(unit, units);
    const T* sample = x + int64_t(n) * shape.height * shape.width * channels + place.channel;
    if constexpr (kWidth == kGroup && W::kKernel == 2 && W::kStride == 2 && sizeof(T) < sizeof(double)) {
      using Cell = BlurredCell<T>;
      if (Cell::is_inside(place.row, shape.rows) && Cell::is_inside(place.column, shape.columns)) {
        const int row = place.row * stride - int(Pooling::kBlurPadding);
        const int column = place.column * stride - int(Pooling::kBlurPadding);
        const int64_t line = int64_t(shape.width) * channels;
        Cell cell;
        if (cell.make(sample + row * line + int64_t(column) * channels, line, channels, bias, place.channel, relu)) {
          const uint32_t window = (row * shape.columns + column) * units.per_pixel + unit % units.per_pixel;
#pragma unroll
          for (int i = 0; codes && i < Cell::kOwn * Cell::kOwn; ++i) {
            const uint32_t at = window + (i / Cell::kOwn * shape.columns + i % Cell::kOwn) * units.per_pixel;
            store_codes<kGroup>(codes + n * shape.code_bytes, at, W::bits(shape), kGroup,
                                cell.codes(i / Cell::kOwn, i % Cell::kOwn));
          }
          store_elements(pooled + n * units.size + int64_t(unit) * kWidth, narrow_elements<T>(cell.sums));
          continue;
        }
      }
    }
    Acc added[kWidth], sum[kWidth] = {};
    bias.load(place.channel, added);
#pragma unroll 1
    for (int dy = 0; dy < reach; ++dy) {
#pragma unroll
      for (int dx = 0; dx < reach; ++dx) {
        const int row = place.row * stride + dy - int(Pooling::kBlurPadding);
        const int column = place.column * stride + dx - int(Pooling::kBlurPadding);
        const bool filtered = dy < kTaps && dx < kTaps;
        const bool own = codes && dy < stride && dx < stride && row >= 0 && row < shape.rows && column >= 0 &&
                         column < shape.columns;
        if (!filtered && !own) continue;
        Acc best[kWidth];
        int code[kWidth];
        const int64_t corner = int64_t(reflected(row, shape.rows)) * shape.width + reflected(column, shape.columns);
        const WindowAt<kWidth, T> window{sample + corner * channels, shape.width, channels};
        take_maximum<W>(window, shape, added, relu, best, code);
        if (filtered) {
          const Acc weight = binomial<Acc>(dy) * binomial<Acc>(dx);
#pragma unroll
          for (int k = 0; k < kWidth; ++k) sum[k] += weight * best[k];
        }
        if constexpr (kWidth == kGroup) {
          const uint32_t number = (row * shape.columns + column) * units.per_pixel + unit % units.per_pixel;
          const auto word = word_of<typename W::Codes>(code, W::bits(shape));
          if (own) store_codes<kWidth>(codes + n * shape.code_bytes, number, W::bits(shape), kWidth, word);
        }
      }
    }
    store_elements(pooled + n * units.size + int64_t(unit) * kWidth, narrow_elements<T>(sum));
  }
}

}  // namespace perceptual_ops
