#include "statistics_cpu.h"

namespace perceptual_ops {
namespace {

// Pixels of a block: its means are found, then, while it is in cache, the squared deviations from them. Blocks are
// merged in their order.
int64_t block_pixels(Layout layout, int64_t channels) {
  return layout == Layout::kNCHW ? kBlock : std::clamp<int64_t>(16384 / channels, 16, 256);
}

// NHWC: maps of which one pixel's channels are read after the other's; pitches in elements.
template <class T>
struct PixelPair {
  const T *x, *y;
  int64_t pitch_x, pitch_y, channels;

  PixelPair from(int64_t pixel) const { return {x + pixel * pitch_x, y + pixel * pitch_y, pitch_x, pitch_y, channels}; }
};

// Several pixels at once, so that sums are loaded and stored less often.
template <int kPixels, class T>
PO_INLINE void add_sums(const PixelPair<T>& pair, double* sums) {  // (3, C)
  double *of_x = sums, *of_y = sums + pair.channels, *of_error = sums + 2 * pair.channels;
#pragma omp simd
  for (int64_t c = 0; c < pair.channels; ++c) {
    double x_sum = 0, y_sum = 0, error_sum = 0;
    for (int i = 0; i < kPixels; ++i) {
      const double x = static_cast<Accumulator<T>>(pair.x[i * pair.pitch_x + c]);
      const double y = static_cast<Accumulator<T>>(pair.y[i * pair.pitch_y + c]);
      x_sum += x;
      y_sum += y;
      error_sum += x - y;
    }
    of_x[c] += x_sum;
    of_y[c] += y_sum;
    of_error[c] += error_sum;
  }
}

template <int kPixels, class T>
PO_INLINE void add_squares(const PixelPair<T>& pair, const Accumulator<T>* means,  // (3, C)
                           Accumulator<T>* squares) {                              // (3, C)
  using Acc = Accumulator<T>;
  const int64_t channels = pair.channels;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const Acc x_mean = means[c], y_mean = means[channels + c], error_mean = means[2 * channels + c];
    Acc x_sum = 0, y_sum = 0, error_sum = 0;
    for (int i = 0; i < kPixels; ++i) {
      const Acc x = static_cast<Acc>(pair.x[i * pair.pitch_x + c]), y = static_cast<Acc>(pair.y[i * pair.pitch_y + c]);
      const Acc x_part = x - x_mean, y_part = y - y_mean, error_part = (x - y) - error_mean;
      x_sum += x_part * x_part;
      y_sum += y_part * y_part;
      error_sum += error_part * error_part;
    }
    squares[c] += x_sum;
    squares[channels + c] += y_sum;
    squares[2 * channels + c] += error_sum;
  }
}

// Moments are, of x, y and x - y in turn, `count` numbers each: their means, then the sums of their squared deviations.

// What lies between the mean of a block and the one that its deviations were taken from, which is rounded, is put
// right.
template <class Acc>
PO_INLINE void finish_moments(const double* sums, const Acc* means, const Acc* squares, int64_t count, double pixels,
                              double* moments) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const double mean = sums[i] / pixels, off = mean - static_cast<double>(means[i]);
    moments[i] = mean;
    moments[count + i] = static_cast<double>(squares[i]) - pixels * off * off;
  }
}

template <class T>
PO_INLINE void pixels_walk(const PixelPair<T>& pair, int64_t pixels, double* sums, Accumulator<T>* means,
                           Accumulator<T>* squares, double* moments) {
  using Acc = Accumulator<T>;
  constexpr int kAtOnce = 4;
  const int64_t whole = pixels - pixels % kAtOnce, count = 3 * pair.channels;
  std::fill_n(sums, count, 0.0);
  std::fill_n(squares, count, Acc(0));
  for (int64_t pixel = 0; pixel < whole; pixel += kAtOnce) add_sums<kAtOnce>(pair.from(pixel), sums);
  for (int64_t pixel = whole; pixel < pixels; ++pixel) add_sums<1>(pair.from(pixel), sums);
  for (int64_t i = 0; i < count; ++i) means[i] = static_cast<Acc>(sums[i] / static_cast<double>(pixels));
  for (int64_t pixel = 0; pixel < whole; pixel += kAtOnce) add_squares<kAtOnce>(pair.from(pixel), means, squares);
  for (int64_t pixel = whole; pixel < pixels; ++pixel) add_squares<1>(pair.from(pixel), means, squares);
  finish_moments(sums, means, squares, count, static_cast<double>(pixels), moments);
}

// NCHW: one channel's pixels side by side.
template <class T>
PO_INLINE void run_walk(const T* x, const T* y, int64_t pixels, double* moments) {
  using Acc = Accumulator<T>;
  double x_sum = 0, y_sum = 0, error_sum = 0;
#pragma omp simd reduction(+ : x_sum, y_sum, error_sum)
  for (int64_t i = 0; i < pixels; ++i) {
    const double a = static_cast<Acc>(x[i]), b = static_cast<Acc>(y[i]);
    x_sum += a;
    y_sum += b;
    error_sum += a - b;
  }
  const auto count = static_cast<double>(pixels);
  const double sums[3] = {x_sum, y_sum, error_sum};
  const Acc means[3] = {static_cast<Acc>(x_sum / count), static_cast<Acc>(y_sum / count),
                        static_cast<Acc>(error_sum / count)};
  const Acc x_mean = means[0], y_mean = means[1], error_mean = means[2];
  Acc x_squares = 0, y_squares = 0, error_squares = 0;
#pragma omp simd reduction(+ : x_squares, y_squares, error_squares)
  for (int64_t i = 0; i < pixels; ++i) {
    const Acc a = static_cast<Acc>(x[i]), b = static_cast<Acc>(y[i]);
    x_squares += (a - x_mean) * (a - x_mean);
    y_squares += (b - y_mean) * (b - y_mean);
    error_squares += (a - b - error_mean) * (a - b - error_mean);
  }
  const Acc squares[3] = {x_squares, y_squares, error_squares};
  finish_moments(sums, means, squares, 3, count, moments);
}

// Clones cannot be templates.
#define PO_MOMENTS(T)                                                                                                 \
  PO_CPU_CLONES void moments_of_pixels(const PixelPair<T>& pair, int64_t pixels, double* sums, Accumulator<T>* means, \
                                       Accumulator<T>* squares, double* moments) {                                    \
    pixels_walk(pair, pixels, sums, means, squares, moments);                                                         \
  }                                                                                                                   \
  PO_CPU_CLONES void moments_of_run(const T* x, const T* y, int64_t pixels, double* moments) {                        \
    run_walk(x, y, pixels, moments);                                                                                  \
  }
PO_MOMENTS(float)
PO_MOMENTS(double)
PO_MOMENTS(Half)
PO_MOMENTS(BFloat16)

// Moments of `before` pixels become those of these and `more` others (Chan, Golub and LeVeque 1979).
PO_CPU_CLONES void merge_moments(double* moments, double before, const double* others, double more, int64_t count) {
  const double share = more / (before + more);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const double apart = others[i] - moments[i];
    moments[i] += share * apart;
    moments[count + i] += others[count + i] + share * before * apart * apart;
  }
}

// Merges the moments of consecutive blocks: block(first, count, moments) finds those of the pixels from `first` on.
template <class F>
void merge_blocks(int64_t begin, int64_t end, int64_t step, int64_t count, double* moments, F&& block) {
  std::vector<double> others(2 * count);
  for (int64_t first = begin; first < end; first += step) {
    const int64_t pixels = std::min(step, end - first);
    block(first, pixels, first == begin ? moments : others.data());
    if (first > begin) {
      merge_moments(moments, static_cast<double>(first - begin), others.data(), static_cast<double>(pixels), count);
    }
  }
}

// -> moments (N, 2, 3, C)
template <class T>
std::vector<double> moments_nhwc(const ServedMap& x, const ServedMap& y, int64_t batch) {
  constexpr Layout kLayout = Layout::kNHWC;
  const int64_t channels = x.map.channels, pixels = x.map.pixels, size = 3 * channels;
  // Parts of a sample, several blocks each, are what threads share.
  const int64_t step = block_pixels(kLayout, channels), part = 8 * step, parts = ceil_div(pixels, part);
  std::vector<double> of_parts(batch * parts * 2 * size), moments(batch * 2 * size);
  torch::stable::parallel_for(0, batch * parts, ceil_div(kGrain, part * channels), [&](int64_t begin, int64_t end) {
    std::vector<double> sums(size);
    std::vector<Accumulator<T>> means(size), squares(size);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / parts, from = task % parts * part;
      merge_blocks(from, std::min(from + part, pixels), step, size, &of_parts[task * 2 * size],
                   [&](int64_t first, int64_t count, double* to) {
                     const PixelPair<T> pair{x.at<T>(kLayout, n, first), y.at<T>(kLayout, n, first), x.map.stride_p,
                                             y.map.stride_p, channels};
                     moments_of_pixels(pair, count, sums.data(), means.data(), squares.data(), to);
                   });
    }
  });
  for (int64_t n = 0; n < batch; ++n) {
    merge_blocks(0, pixels, part, size, &moments[n * 2 * size], [&](int64_t first, int64_t, double* to) {
      std::copy_n(&of_parts[(n * parts + first / part) * 2 * size], 2 * size, to);
    });
  }
  return moments;
}

template <class T>
std::vector<double> moments_nchw(const ServedMap& x, const ServedMap& y, int64_t batch) {
  constexpr Layout kLayout = Layout::kNCHW;
  const int64_t channels = x.map.channels, pixels = x.map.pixels;
  std::vector<double> moments(batch * 6 * channels);
  torch::stable::parallel_for(0, batch * channels, ceil_div(kGrain, pixels), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / channels, c = task % channels;
      double of_channel[6];
      merge_blocks(0, pixels, block_pixels(kLayout, channels), 3, of_channel,
                   [&](int64_t first, int64_t count, double* to) {
                     moments_of_run(x.at<T>(kLayout, n, c, first), y.at<T>(kLayout, n, c, first), count, to);
                   });
      for (int64_t i = 0; i < 6; ++i) moments[(n * 6 + i) * channels + c] = of_channel[i];
    }
  });
  return moments;
}

}  // namespace

std::vector<double> channel_statistics(const ServedMap& x, const ServedMap& y, Layout layout) {
  const int64_t batch = x.map.batch, channels = x.map.channels;
  std::vector<double> statistics;  // (N, 6, C)
  dispatch_dtype(x.tensor, "features", [&](auto element) {
    using T = decltype(element);
    statistics = layout == Layout::kNCHW ? moments_nchw<T>(x, y, batch) : moments_nhwc<T>(x, y, batch);
  });
  for (size_t i = 0; i < statistics.size(); ++i) {
    const bool of_squares = i / (3 * channels) % 2 == 1;
    // Below 0 by rounding, where nothing deviates; NaN stays.
    if (of_squares) statistics[i] = statistics[i] < 0 ? 0 : statistics[i] / static_cast<double>(x.map.pixels);
  }
  return statistics;
}

}  // namespace perceptual_ops
