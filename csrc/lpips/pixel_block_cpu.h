// LPIPS over a block of pixels on the CPU, small enough to stay in cache for three passes: norms, distances, gradient.
#pragma once

#include "../common/cpu.h"

namespace perceptual_ops {

constexpr int64_t kMaxPixels = 64;  // of a block

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

// Per-pixel sums of a block; each pass fills what the next one reads.
template <class Acc>
struct PixelSums {
  // Sums over the channels of x^2, y^2 and x^2 - y^2. In fp64 the square of no fp32 number overflows or vanishes.
  double x_squares[kMaxPixels], y_squares[kMaxPixels], difference[kMaxPixels];
  // x / nx - y / ny = inv_norm (x - y) - corr_x x - corr_y y, which avoids cancellation.
  Acc inv_norm[kMaxPixels], corr_x[kMaxPixels], corr_y[kMaxPixels];
  // Sums over the channels of w e^2, w e x and w e y.
  Acc distance[kMaxPixels], dot_wex[kMaxPixels], dot_wey[kMaxPixels];
};

struct LengthSettings {
  double eps;
  bool eps_inside;
};

// One map's gradient: factor (w e - slope x) for each channel of a pixel.
template <class Acc>
struct GradientFactors {
  Acc factor[kMaxPixels], slope[kMaxPixels];
};

// The passes over a block, in their order. Reads of a map that is not in `Acc`, or that jumps from channel to channel,
// go through a widened copy.
#define PO_PIXEL_BLOCK(Acc)                                                                               \
  void sum_squares(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y, PixelSums<Acc>& sums);  \
  void find_errors(const BlockShape& shape, const LengthSettings& settings, PixelSums<Acc>& sums);        \
  void sum_distances(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y, const Acc* weights,   \
                     PixelSums<Acc>& sums);                                                               \
  void find_gradient(const BlockShape& shape, const LengthSettings& settings, const PixelSums<Acc>& sums, \
                     const double* upstream, bool by_targets, GradientFactors<Acc>& gradient)
#define PO_PIXEL_ROWS(T)                                                                                   \
  void widen_rows(Rows<const T> from, int64_t rows, int64_t length, Rows<Accumulator<T>> to);              \
  void store_gradient(const BlockShape& shape, Rows<const Accumulator<T>> x, Rows<const Accumulator<T>> y, \
                      const Accumulator<T>* weights, const PixelSums<Accumulator<T>>& sums,                \
                      const GradientFactors<Accumulator<T>>& gradient, bool by_targets, Rows<T> out)
PO_PIXEL_BLOCK(float);
PO_PIXEL_BLOCK(double);
PO_PIXEL_ROWS(float);
PO_PIXEL_ROWS(double);
PO_PIXEL_ROWS(Half);
PO_PIXEL_ROWS(BFloat16);

}  // namespace perceptual_ops
