#include "pixel_block_cpu.h"

#include <cmath>

namespace perceptual_ops {
namespace {

// Channels of an NCHW block in one chain of additions: longer chains would lose accuracy.
constexpr int64_t kStrip = 32;

template <class Acc>
PO_INLINE void sum_squares_impl(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y, PixelSums<Acc>& sums) {
  if (shape.layout == Layout::kNHWC) {
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      const Acc *from_x = x[pixel], *from_y = y[pixel];
      double xx = 0, yy = 0, difference = 0;
#pragma omp simd reduction(+ : xx, yy, difference)
      for (int64_t c = 0; c < shape.channels; ++c) {
        const double a = from_x[c], b = from_y[c];
        xx += a * a;
        yy += b * b;
        difference += (a - b) * (a + b);
      }
      sums.x_squares[pixel] = xx;
      sums.y_squares[pixel] = yy;
      sums.difference[pixel] = difference;
    }
    return;
  }
  for (auto* cleared : {sums.x_squares, sums.y_squares, sums.difference}) std::fill_n(cleared, shape.pixels, 0.0);
  for (int64_t c = 0; c < shape.channels; ++c) {
    const Acc *from_x = x[c], *from_y = y[c];
#pragma omp simd
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      const double a = from_x[pixel], b = from_y[pixel];
      sums.x_squares[pixel] += a * a;
      sums.y_squares[pixel] += b * b;
      sums.difference[pixel] += (a - b) * (a + b);
    }
  }
}

// The 2-norm of a pixel's channels, and the divisor with eps.
struct Length {
  double root, norm;
};

PO_INLINE Length length_of(double squares, const LengthSettings& settings) {
  const double root = std::sqrt(squares);
  return {root, settings.eps_inside ? std::sqrt(settings.eps + squares) : root + settings.eps};
}

// With delta = nx - ny: x / nx - y / ny = ((x - y) - (y / ny) delta) / nx = ((x - y) - (x / nx) delta) / ny. The one
// with the larger divisor adds sums below 2.
template <class Acc>
PO_INLINE void find_errors_impl(const BlockShape& shape, const LengthSettings& settings, PixelSums<Acc>& sums) {
#pragma omp simd
  for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
    const Length x = length_of(sums.x_squares[pixel], settings), y = length_of(sums.y_squares[pixel], settings);
    const double sum = settings.eps_inside ? x.norm + y.norm : x.root + y.root;
    const double delta = sum == 0 ? 0 : sums.difference[pixel] / sum;
    const double slope = delta / (x.norm * y.norm);
    const bool x_is_shorter = x.norm < y.norm;
    sums.inv_norm[pixel] = static_cast<Acc>(1 / (x_is_shorter ? y.norm : x.norm));
    sums.corr_x[pixel] = static_cast<Acc>(x_is_shorter ? slope : 0);
    sums.corr_y[pixel] = static_cast<Acc>(x_is_shorter ? 0 : slope);
  }
}

template <class Acc>
PO_INLINE Acc error_at(Acc inv_norm, Acc corr_x, Acc corr_y, Acc x, Acc y) {
  return inv_norm * (x - y) - corr_x * x - corr_y * y;
}

template <class Acc>
PO_INLINE void sum_distances_impl(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y, const Acc* weights,
                                  PixelSums<Acc>& sums) {
  if (shape.layout == Layout::kNHWC) {
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      const Acc *from_x = x[pixel], *from_y = y[pixel];
      const Acc inv_norm = sums.inv_norm[pixel], corr_x = sums.corr_x[pixel], corr_y = sums.corr_y[pixel];
      Acc distance = 0, dot_wex = 0, dot_wey = 0;
#pragma omp simd reduction(+ : distance, dot_wex, dot_wey)
      for (int64_t c = 0; c < shape.channels; ++c) {
        const Acc found = error_at(inv_norm, corr_x, corr_y, from_x[c], from_y[c]), weighted = weights[c] * found;
        distance += weighted * found;
        dot_wex += weighted * from_x[c];
        dot_wey += weighted * from_y[c];
      }
      sums.distance[pixel] = distance;
      sums.dot_wex[pixel] = dot_wex;
      sums.dot_wey[pixel] = dot_wey;
    }
    return;
  }
  for (auto* cleared : {sums.distance, sums.dot_wex, sums.dot_wey}) std::fill_n(cleared, shape.pixels, Acc(0));
  for (int64_t first = 0; first < shape.channels; first += kStrip) {
    Acc distance[kMaxPixels] = {}, dot_wex[kMaxPixels] = {}, dot_wey[kMaxPixels] = {};
    for (int64_t c = first; c < std::min(first + kStrip, shape.channels); ++c) {
      const Acc *from_x = x[c], *from_y = y[c];
      const Acc weight = weights[c];
#pragma omp simd
      for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
        const Acc found =
            error_at(sums.inv_norm[pixel], sums.corr_x[pixel], sums.corr_y[pixel], from_x[pixel], from_y[pixel]);
        const Acc weighted = weight * found;
        distance[pixel] += weighted * found;
        dot_wex[pixel] += weighted * from_x[pixel];
        dot_wey[pixel] += weighted * from_y[pixel];
      }
    }
#pragma omp simd
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      sums.distance[pixel] += distance[pixel];
      sums.dot_wex[pixel] += dot_wex[pixel];
      sums.dot_wey[pixel] += dot_wey[pixel];
    }
  }
}

// d / dx_c = 2 upstream / nx (w_c e_c - x_c / |x| sum of w e x / nx); d / dy_c likewise, negated. With eps outside the
// root, a pixel whose features are all 0 gets no gradient: times 0, so that NaN stays NaN.
template <class Acc>
PO_INLINE void find_gradient_impl(const BlockShape& shape, const LengthSettings& settings, const double* squares,
                                  const Acc* dot_we, const double* upstream, double sign,
                                  GradientFactors<Acc>& gradient) {
#pragma omp simd
  for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
    const Length length = length_of(squares[pixel], settings);
    const bool nothing = !settings.eps_inside && squares[pixel] == 0;
    const double root = settings.eps_inside ? length.norm : nothing ? 1 : length.root;
    gradient.factor[pixel] = static_cast<Acc>(nothing ? 0 : 2 * sign * upstream[pixel] / length.norm);
    gradient.slope[pixel] = static_cast<Acc>(dot_we[pixel] / (length.norm * root));
  }
}

template <bool kByTargets, class T>
PO_INLINE void store_gradient_impl(const BlockShape& shape, Rows<const Accumulator<T>> x, Rows<const Accumulator<T>> y,
                                   const Accumulator<T>* weights, const PixelSums<Accumulator<T>>& sums,
                                   const GradientFactors<Accumulator<T>>& gradient, Rows<T> out) {
  using Acc = Accumulator<T>;
  if (shape.layout == Layout::kNHWC) {
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      const Acc *from_x = x[pixel], *from_y = y[pixel];
      const Acc inv_norm = sums.inv_norm[pixel], corr_x = sums.corr_x[pixel], corr_y = sums.corr_y[pixel];
      const Acc factor = gradient.factor[pixel], slope = gradient.slope[pixel];
      T* to = out[pixel];
#pragma omp simd
      for (int64_t c = 0; c < shape.channels; ++c) {
        const Acc weighted = weights[c] * error_at(inv_norm, corr_x, corr_y, from_x[c], from_y[c]);
        store_rounded(to[c], factor * (weighted - slope * (kByTargets ? from_y : from_x)[c]));
      }
    }
    return;
  }
  for (int64_t c = 0; c < shape.channels; ++c) {
    const Acc *from_x = x[c], *from_y = y[c];
    const Acc weight = weights[c];
    T* to = out[c];
#pragma omp simd
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      const Acc weighted =
          weight * error_at(sums.inv_norm[pixel], sums.corr_x[pixel], sums.corr_y[pixel], from_x[pixel], from_y[pixel]);
      store_rounded(to[pixel], gradient.factor[pixel] *
                                   (weighted - gradient.slope[pixel] * (kByTargets ? from_y : from_x)[pixel]));
    }
  }
}

template <class T>
PO_INLINE void widen_rows_impl(Rows<const T> from, int64_t rows, int64_t length, Rows<Accumulator<T>> to) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* source = from[row];
    Accumulator<T>* target = to[row];
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) target[i] = static_cast<Accumulator<T>>(source[i]);
  }
}

}  // namespace

// Clones cannot be templates.
#define PO_PIXEL_BLOCK_BODY(Acc)                                                                                      \
  PO_CPU_CLONES void sum_squares(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y,                       \
                                 PixelSums<Acc>& sums) {                                                              \
    sum_squares_impl(shape, x, y, sums);                                                                              \
  }                                                                                                                   \
  PO_CPU_CLONES void find_errors(const BlockShape& shape, const LengthSettings& settings, PixelSums<Acc>& sums) {     \
    find_errors_impl(shape, settings, sums);                                                                          \
  }                                                                                                                   \
  PO_CPU_CLONES void sum_distances(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y, const Acc* weights, \
                                   PixelSums<Acc>& sums) {                                                            \
    sum_distances_impl(shape, x, y, weights, sums);                                                                   \
  }                                                                                                                   \
  PO_CPU_CLONES void find_gradient(const BlockShape& shape, const LengthSettings& settings,                           \
                                   const PixelSums<Acc>& sums, const double* upstream, bool by_targets,               \
                                   GradientFactors<Acc>& gradient) {                                                  \
    find_gradient_impl(shape, settings, by_targets ? sums.y_squares : sums.x_squares,                                 \
                       by_targets ? sums.dot_wey : sums.dot_wex, upstream, by_targets ? -1.0 : 1.0, gradient);        \
  }
PO_PIXEL_BLOCK_BODY(float)
PO_PIXEL_BLOCK_BODY(double)

#define PO_PIXEL_ROWS_BODY(T)                                                                                        \
  PO_CPU_CLONES void widen_rows(Rows<const T> from, int64_t rows, int64_t length, Rows<Accumulator<T>> to) {         \
    widen_rows_impl(from, rows, length, to);                                                                         \
  }                                                                                                                  \
  PO_CPU_CLONES void store_gradient(const BlockShape& shape, Rows<const Accumulator<T>> x,                           \
                                    Rows<const Accumulator<T>> y, const Accumulator<T>* weights,                     \
                                    const PixelSums<Accumulator<T>>& sums,                                           \
                                    const GradientFactors<Accumulator<T>>& gradient, bool by_targets, Rows<T> out) { \
    by_targets ? store_gradient_impl<true>(shape, x, y, weights, sums, gradient, out)                                \
               : store_gradient_impl<false>(shape, x, y, weights, sums, gradient, out);                              \
  }
PO_PIXEL_ROWS_BODY(float)
PO_PIXEL_ROWS_BODY(double)
PO_PIXEL_ROWS_BODY(Half)
PO_PIXEL_ROWS_BODY(BFloat16)

}  // namespace perceptual_ops
