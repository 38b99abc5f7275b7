// LPIPS over a block of pixels on the CPU, small enough to stay in cache while it is read three times: for the lengths
// of its pixels, for their distances, for the gradient.
#pragma once

#include "../common/cpu.h"

namespace perceptual_ops {

constexpr int64_t kMostPixels = 64;  // of a block

struct BlockShape {
  Layout layout;
  int64_t channels, pixels;
};

// What lies side by side: the pixels of a channel in NCHW, the channels of a pixel in NHWC.
template <class T>
struct Rows {
  T* data;
  int64_t pitch;  // from row to row, elements

  T* operator[](int64_t row) const { return data + row * pitch; }
};

// Numbers of each pixel of a block; a pass fills what the next one reads.
template <class Acc>
struct PixelNumbers {
  // Sums over the channels of x^2, y^2 and x^2 - y^2. In fp64 the square of no fp32 number overflows or vanishes.
  double x_squares[kMostPixels], y_squares[kMostPixels], difference[kMostPixels];
  // x / nx - y / ny is error (x - y) - of_x x - of_y y, which keeps the digits of small differences.
  Acc error[kMostPixels], of_x[kMostPixels], of_y[kMostPixels];
  // Sums over the channels of w e^2, w e x and w e y.
  Acc distance[kMostPixels], with_x[kMostPixels], with_y[kMostPixels];
};

struct LengthSettings {
  double eps;
  bool eps_inside;
};

// One map's gradient: factor (w e - slope x) for each channel of a pixel.
template <class Acc>
struct GradientNumbers {
  Acc factor[kMostPixels], slope[kMostPixels];
};

// The passes over a block, in their order. Reads of a map that is not in `Acc`, or that jumps from channel to channel,
// go through a widened copy.
#define PO_PIXEL_BLOCK(Acc)                                                                                     \
  void sum_squares(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y, PixelNumbers<Acc>& numbers);  \
  void find_errors(const BlockShape& shape, const LengthSettings& settings, PixelNumbers<Acc>& numbers);        \
  void sum_distances(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y, const Acc* weights,         \
                     PixelNumbers<Acc>& numbers);                                                               \
  void find_gradient(const BlockShape& shape, const LengthSettings& settings, const PixelNumbers<Acc>& numbers, \
                     const double* upstream, bool by_targets, GradientNumbers<Acc>& gradient)
#define PO_PIXEL_ROWS(T)                                                                                   \
  void widen_rows(Rows<const T> from, int64_t rows, int64_t length, Rows<Accumulator<T>> to);              \
  void store_gradient(const BlockShape& shape, Rows<const Accumulator<T>> x, Rows<const Accumulator<T>> y, \
                      const Accumulator<T>* weights, const PixelNumbers<Accumulator<T>>& numbers,          \
                      const GradientNumbers<Accumulator<T>>& gradient, bool by_targets, Rows<T> out)
PO_PIXEL_BLOCK(float);
PO_PIXEL_BLOCK(double);
PO_PIXEL_ROWS(float);
PO_PIXEL_ROWS(double);
PO_PIXEL_ROWS(Half);
PO_PIXEL_ROWS(BFloat16);

}  // namespace perceptual_ops
