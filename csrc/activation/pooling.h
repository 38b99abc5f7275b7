// The geometry of a pooling and the width of its codes, the same for every backend. No torch here: .cuh files include
// this.
#pragma once

#include <cstdint>

namespace perceptual_ops {

enum class PoolKind : int8_t { kMax, kAverage, kBlur };

// Windows lie `step` pixels apart on the map. Their maxima (or means) are the result, but for kBlur: there a binomial
// 3x3 filter follows, at `stride`, over the map of maxima with a reflected border of kBlurPadding pixels.
struct Pooling {
  static constexpr int64_t kBlurPadding = 2;
  static constexpr int64_t kLargestKernel = 15;       // whose positions, and the mark of none, fit 8 bits
  static constexpr int64_t kLargestNibbleKernel = 3;  // and 4 bits

  PoolKind kind;
  int64_t kernel;
  int64_t stride;
  int64_t height;  // of the map
  int64_t width;

  int64_t step() const { return kind == PoolKind::kBlur ? 1 : stride; }
  int64_t windows_of(int64_t side) const { return side < kernel ? 0 : (side - kernel) / step() + 1; }
  int64_t outputs_of(int64_t windows) const {
    return kind == PoolKind::kBlur ? (windows + 2 * kBlurPadding - 3) / stride + 1 : windows;
  }

  // Sizes of the map of windows, which the codes describe, and of the result.
  int64_t windows_height() const { return windows_of(height); }
  int64_t windows_width() const { return windows_of(width); }
  int64_t out_height() const { return outputs_of(windows_height()); }
  int64_t out_width() const { return outputs_of(windows_width()); }

  // A code is a position in a window, row by row; all bits set where the ReLU passes nothing.
  int64_t code_bits() const { return kernel <= kLargestNibbleKernel ? 4 : 8; }
  // Bytes of a sample's codes, in the order of a channels_last map, lowest bits first.
  int64_t code_bytes(int64_t channels) const {
    const int64_t codes = channels * windows_height() * windows_width();
    return code_bits() == 4 ? (codes + 1) / 2 : codes;
  }
};

}  // namespace perceptual_ops
