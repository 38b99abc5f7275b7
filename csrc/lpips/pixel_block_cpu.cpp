#include "pixel_block_cpu.h"

#include <cmath>

namespace perceptual_ops {
namespace {

// Channels of an NCHW block that are summed one after the other: one sum of them all would lose digits.
constexpr int64_t kStrip = 32;

template <class Acc>
PO_INLINE void squares_walk(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y, PixelNumbers<Acc>& numbers) {
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
      numbers.x_squares[pixel] = xx;
      numbers.y_squares[pixel] = yy;
      numbers.difference[pixel] = difference;
    }
    return;
  }
  for (auto* sums : {numbers.x_squares, numbers.y_squares, numbers.difference}) std::fill_n(sums, shape.pixels, 0.0);
  for (int64_t c = 0; c < shape.channels; ++c) {
    const Acc *from_x = x[c], *from_y = y[c];
#pragma omp simd
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      const double a = from_x[pixel], b = from_y[pixel];
      numbers.x_squares[pixel] += a * a;
      numbers.y_squares[pixel] += b * b;
      numbers.difference[pixel] += (a - b) * (a + b);
    }
  }
}

// A length, and what it is divided by.
struct Length {
  double root, norm;
};

PO_INLINE Length length_of(double squares, const LengthSettings& settings) {
  const double root = std::sqrt(squares);
  return {root, settings.eps_inside ? std::sqrt(settings.eps + squares) : root + settings.eps};
}

// With delta = nx - ny: x / nx - y / ny = ((x - y) - (y / ny) delta) / nx = ((x - y) - (x / nx) delta) / ny. The one
// with the larger divisor adds numbers below 2.
template <class Acc>
PO_INLINE void errors_walk(const BlockShape& shape, const LengthSettings& settings, PixelNumbers<Acc>& numbers) {
#pragma omp simd
  for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
    const Length x = length_of(numbers.x_squares[pixel], settings), y = length_of(numbers.y_squares[pixel], settings);
    const double sum = settings.eps_inside ? x.norm + y.norm : x.root + y.root;
    const double delta = sum == 0 ? 0 : numbers.difference[pixel] / sum;
    const double slope = delta / (x.norm * y.norm);
    const bool x_is_shorter = x.norm < y.norm;
    numbers.error[pixel] = static_cast<Acc>(1 / (x_is_shorter ? y.norm : x.norm));
    numbers.of_x[pixel] = static_cast<Acc>(x_is_shorter ? slope : 0);
    numbers.of_y[pixel] = static_cast<Acc>(x_is_shorter ? 0 : slope);
  }
}

template <class Acc>
PO_INLINE Acc error_at(Acc error, Acc of_x, Acc of_y, Acc x, Acc y) {
  return error * (x - y) - of_x * x - of_y * y;
}

template <class Acc>
PO_INLINE void distances_walk(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y, const Acc* weights,
                              PixelNumbers<Acc>& numbers) {
  if (shape.layout == Layout::kNHWC) {
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      const Acc *from_x = x[pixel], *from_y = y[pixel];
      const Acc error = numbers.error[pixel], of_x = numbers.of_x[pixel], of_y = numbers.of_y[pixel];
      Acc distance = 0, with_x = 0, with_y = 0;
#pragma omp simd reduction(+ : distance, with_x, with_y)
      for (int64_t c = 0; c < shape.channels; ++c) {
        const Acc found = error_at(error, of_x, of_y, from_x[c], from_y[c]), weighted = weights[c] * found;
        distance += weighted * found;
        with_x += weighted * from_x[c];
        with_y += weighted * from_y[c];
      }
      numbers.distance[pixel] = distance;
      numbers.with_x[pixel] = with_x;
      numbers.with_y[pixel] = with_y;
    }
    return;
  }
  for (auto* sums : {numbers.distance, numbers.with_x, numbers.with_y}) std::fill_n(sums, shape.pixels, Acc(0));
  for (int64_t first = 0; first < shape.channels; first += kStrip) {
    Acc distance[kMostPixels] = {}, with_x[kMostPixels] = {}, with_y[kMostPixels] = {};
    for (int64_t c = first; c < std::min(first + kStrip, shape.channels); ++c) {
      const Acc *from_x = x[c], *from_y = y[c];
      const Acc weight = weights[c];
#pragma omp simd
      for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
        const Acc found =
            error_at(numbers.error[pixel], numbers.of_x[pixel], numbers.of_y[pixel], from_x[pixel], from_y[pixel]);
        const Acc weighted = weight * found;
        distance[pixel] += weighted * found;
        with_x[pixel] += weighted * from_x[pixel];
        with_y[pixel] += weighted * from_y[pixel];
      }
    }
#pragma omp simd
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      numbers.distance[pixel] += distance[pixel];
      numbers.with_x[pixel] += with_x[pixel];
      numbers.with_y[pixel] += with_y[pixel];
    }
  }
}

// d / dx_c = 2 upstream / nx (w_c e_c - x_c / |x| sum of w e x / nx), and by y the same negated. With eps outside the
// root, no gradient reaches a pixel whose features are all 0; times 0, so that NaN stays NaN.
template <class Acc>
PO_INLINE void gradient_walk(const BlockShape& shape, const LengthSettings& settings, const double* squares,
                             const Acc* with, const double* upstream, double sign, GradientNumbers<Acc>& gradient) {
#pragma omp simd
  for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
    const Length length = length_of(squares[pixel], settings);
    const bool nothing = !settings.eps_inside && squares[pixel] == 0;
    const double root = settings.eps_inside ? length.norm : nothing ? 1 : length.root;
    gradient.factor[pixel] = static_cast<Acc>(nothing ? 0 : 2 * sign * upstream[pixel] / length.norm);
    gradient.slope[pixel] = static_cast<Acc>(with[pixel] / (length.norm * root));
  }
}

template <bool kByTargets, class T>
PO_INLINE void store_walk(const BlockShape& shape, Rows<const Accumulator<T>> x, Rows<const Accumulator<T>> y,
                          const Accumulator<T>* weights, const PixelNumbers<Accumulator<T>>& numbers,
                          const GradientNumbers<Accumulator<T>>& gradient, Rows<T> out) {
  using Acc = Accumulator<T>;
  if (shape.layout == Layout::kNHWC) {
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      const Acc *from_x = x[pixel], *from_y = y[pixel];
      const Acc error = numbers.error[pixel], of_x = numbers.of_x[pixel], of_y = numbers.of_y[pixel];
      const Acc factor = gradient.factor[pixel], slope = gradient.slope[pixel];
      T* to = out[pixel];
#pragma omp simd
      for (int64_t c = 0; c < shape.channels; ++c) {
        const Acc weighted = weights[c] * error_at(error, of_x, of_y, from_x[c], from_y[c]);
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
      const Acc weighted = weight * error_at(numbers.error[pixel], numbers.of_x[pixel], numbers.of_y[pixel],
                                             from_x[pixel], from_y[pixel]);
      store_rounded(to[pixel], gradient.factor[pixel] *
                                   (weighted - gradient.slope[pixel] * (kByTargets ? from_y : from_x)[pixel]));
    }
  }
}

template <class T>
PO_INLINE void widen_walk(Rows<const T> from, int64_t rows, int64_t length, Rows<Accumulator<T>> to) {
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
                                 PixelNumbers<Acc>& numbers) {                                                        \
    squares_walk(shape, x, y, numbers);                                                                               \
  }                                                                                                                   \
  PO_CPU_CLONES void find_errors(const BlockShape& shape, const LengthSettings& settings,                             \
                                 PixelNumbers<Acc>& numbers) {                                                        \
    errors_walk(shape, settings, numbers);                                                                            \
  }                                                                                                                   \
  PO_CPU_CLONES void sum_distances(const BlockShape& shape, Rows<const Acc> x, Rows<const Acc> y, const Acc* weights, \
                                   PixelNumbers<Acc>& numbers) {                                                      \
    distances_walk(shape, x, y, weights, numbers);                                                                    \
  }                                                                                                                   \
  PO_CPU_CLONES void find_gradient(const BlockShape& shape, const LengthSettings& settings,                           \
                                   const PixelNumbers<Acc>& numbers, const double* upstream, bool by_targets,         \
                                   GradientNumbers<Acc>& gradient) {                                                  \
    gradient_walk(shape, settings, by_targets ? numbers.y_squares : numbers.x_squares,                                \
                  by_targets ? numbers.with_y : numbers.with_x, upstream, by_targets ? -1.0 : 1.0, gradient);         \
  }
PO_PIXEL_BLOCK_BODY(float)
PO_PIXEL_BLOCK_BODY(double)

#define PO_PIXEL_ROWS_BODY(T)                                                                                        \
  PO_CPU_CLONES void widen_rows(Rows<const T> from, int64_t rows, int64_t length, Rows<Accumulator<T>> to) {         \
    widen_walk(from, rows, length, to);                                                                              \
  }                                                                                                                  \
  PO_CPU_CLONES void store_gradient(const BlockShape& shape, Rows<const Accumulator<T>> x,                           \
                                    Rows<const Accumulator<T>> y, const Accumulator<T>* weights,                     \
                                    const PixelNumbers<Accumulator<T>>& numbers,                                     \
                                    const GradientNumbers<Accumulator<T>>& gradient, bool by_targets, Rows<T> out) { \
    by_targets ? store_walk<true>(shape, x, y, weights, numbers, gradient, out)                                      \
               : store_walk<false>(shape, x, y, weights, numbers, gradient, out);                                    \
  }
PO_PIXEL_ROWS_BODY(float)
PO_PIXEL_ROWS_BODY(double)
PO_PIXEL_ROWS_BODY(Half)
PO_PIXEL_ROWS_BODY(BFloat16)

}  // namespace perceptual_ops
