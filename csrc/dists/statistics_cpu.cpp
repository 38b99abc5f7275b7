#include "statistics_cpu.h"

namespace perceptual_ops {
namespace {

// Pixels of a block: its means are found, then, while it is in cache, the squared deviations from them. Blocks are
// merged in their order.
int64_t block_pixels(Layout layout, int64_t channels) {
  return layout == Layout::kNCHW ? kBlock : std::clamp<int64_t>(16384 / channels, 16, 256);
}

// What is observed: x, and where it is one of a pair also y and x - y.
template <bool kPair>
constexpr int64_t kObserved = kPair ? 3 : 1;

// NHWC: maps of which one pixel's channels are read after the other's; pitches in elements. Of no pair y is null.
template <class T, bool kPair>
struct Pixels {
  const T *x, *y;
  int64_t pitch_x, pitch_y, channels;

  Pixels from(int64_t pixel) const {
    return {x + pixel * pitch_x, kPair ? y + pixel * pitch_y : nullptr, pitch_x, pitch_y, channels};
  }
};

// Several pixels at once, so that sums are loaded and stored less often.
template <int kPixels, class T, bool kPair>
PO_INLINE void add_sums(const Pixels<T, kPair>& maps, double* sums) {  // (observed, C)
  const int64_t channels = maps.channels;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    double x_sum = 0, y_sum = 0, error_sum = 0;
    for (int i = 0; i < kPixels; ++i) {
      const double x = static_cast<Accumulator<T>>(maps.x[i * maps.pitch_x + c]);
      x_sum += x;
      if constexpr (kPair) {
        const double y = static_cast<Accumulator<T>>(maps.y[i * maps.pitch_y + c]);
        y_sum += y;
        error_sum += x - y;
      }
    }
    sums[c] += x_sum;
    if constexpr (kPair) {
      sums[channels + c] += y_sum;
      sums[2 * channels + c] += error_sum;
    }
  }
}

template <int kPixels, class T, bool kPair>
PO_INLINE void add_squares(const Pixels<T, kPair>& maps, const Accumulator<T>* means,  // (observed, C)
                           Accumulator<T>* squares) {                                  // (observed, C)
  using Acc = Accumulator<T>;
  const int64_t channels = maps.channels;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const Acc x_mean = means[c];
    const Acc y_mean = kPair ? means[channels + c] : Acc(0), error_mean = kPair ? means[2 * channels + c] : Acc(0);
    Acc x_sum = 0, y_sum = 0, error_sum = 0;
    for (int i = 0; i < kPixels; ++i) {
      const Acc x = static_cast<Acc>(maps.x[i * maps.pitch_x + c]), x_part = x - x_mean;
      x_sum += x_part * x_part;
      if constexpr (kPair) {
        const Acc y = static_cast<Acc>(maps.y[i * maps.pitch_y + c]);
        const Acc y_part = y - y_mean, error_part = (x - y) - error_mean;
        y_sum += y_part * y_part;
        error_sum += error_part * error_part;
      }
    }
    squares[c] += x_sum;
    if constexpr (kPair) {
      squares[channels + c] += y_sum;
      squares[2 * channels + c] += error_sum;
    }
  }
}

// Moments are of what is observed, in turn, `count` numbers each: their means, then the sums of their squared
// deviations.

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

template <class T, bool kPair>
PO_INLINE void pixels_walk(const Pixels<T, kPair>& maps, int64_t pixels, double* sums, Accumulator<T>* means,
                           Accumulator<T>* squares, double* moments) {
  using Acc = Accumulator<T>;
  constexpr int kAtOnce = 4;
  const int64_t whole = pixels - pixels % kAtOnce, count = kObserved<kPair> * maps.channels;
  std::fill_n(sums, count, 0.0);
  std::fill_n(squares, count, Acc(0));
  for (int64_t pixel = 0; pixel < whole; pixel += kAtOnce) add_sums<kAtOnce>(maps.from(pixel), sums);
  for (int64_t pixel = whole; pixel < pixels; ++pixel) add_sums<1>(maps.from(pixel), sums);
  for (int64_t i = 0; i < count; ++i) means[i] = static_cast<Acc>(sums[i] / static_cast<double>(pixels));
  for (int64_t pixel = 0; pixel < whole; pixel += kAtOnce) add_squares<kAtOnce>(maps.from(pixel), means, squares);
  for (int64_t pixel = whole; pixel < pixels; ++pixel) add_squares<1>(maps.from(pixel), means, squares);
  finish_moments(sums, means, squares, count, static_cast<double>(pixels), moments);
}

// NCHW: one channel's pixels side by side.
template <class T, bool kPair>
PO_INLINE void run_walk(const T* x, const T* y, int64_t pixels, double* moments) {
  using Acc = Accumulator<T>;
  double x_sum = 0, y_sum = 0, error_sum = 0;
#pragma omp simd reduction(+ : x_sum, y_sum, error_sum)
  for (int64_t i = 0; i < pixels; ++i) {
    const double a = static_cast<Acc>(x[i]);
    x_sum += a;
    if constexpr (kPair) {
      const double b = static_cast<Acc>(y[i]);
      y_sum += b;
      error_sum += a - b;
    }
  }
  const auto count = static_cast<double>(pixels);
  const double sums[3] = {x_sum, y_sum, error_sum};
  const Acc means[3] = {static_cast<Acc>(x_sum / count), static_cast<Acc>(y_sum / count),
                        static_cast<Acc>(error_sum / count)};
  const Acc x_mean = means[0], y_mean = means[1], error_mean = means[2];
  Acc x_squares = 0, y_squares = 0, error_squares = 0;
#pragma omp simd reduction(+ : x_squares, y_squares, error_squares)
  for (int64_t i = 0; i < pixels; ++i) {
    const Acc a = static_cast<Acc>(x[i]);
    x_squares += (a - x_mean) * (a - x_mean);
    if constexpr (kPair) {
      const Acc b = static_cast<Acc>(y[i]);
      y_squares += (b - y_mean) * (b - y_mean);
      error_squares += (a - b - error_mean) * (a - b - error_mean);
    }
  }
  const Acc squares[3] = {x_squares, y_squares, error_squares};
  finish_moments(sums, means, squares, kObserved<kPair>, count, moments);
}

// Clones cannot be templates.
#define PO_MOMENTS(T)                                                                                     \
  PO_CPU_CLONES void moments_of_pixels(const Pixels<T, true>& maps, int64_t pixels, double* sums,         \
                                       Accumulator<T>* means, Accumulator<T>* squares, double* moments) { \
    pixels_walk(maps, pixels, sums, means, squares, moments);                                             \
  }                                                                                                       \
  PO_CPU_CLONES void moments_of_pixels(const Pixels<T, false>& maps, int64_t pixels, double* sums,        \
                                       Accumulator<T>* means, Accumulator<T>* squares, double* moments) { \
    pixels_walk(maps, pixels, sums, means, squares, moments);                                             \
  }                                                                                                       \
  PO_CPU_CLONES void moments_of_runs(const T* x, const T* y, int64_t pixels, double* moments) {           \
    run_walk<T, true>(x, y, pixels, moments);                                                             \
  }                                                                                                       \
  PO_CPU_CLONES void moments_of_run(const T* x, int64_t pixels, double* moments) {                        \
    run_walk<T, false>(x, nullptr, pixels, moments);                                                      \
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

// -> moments (N, 2, observed, C)
template <class T, bool kPair>
std::vector<double> moments_nhwc(const ServedMap& x, const ServedMap* y, int64_t batch) {
  constexpr Layout kLayout = Layout::kNHWC;
  const int64_t channels = x.map.channels, pixels = x.map.pixels, size = kObserved<kPair> * channels;
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
                     const Pixels<T, kPair> maps{x.at<T>(kLayout, n, first),
                                                 kPair ? y->at<T>(kLayout, n, first) : nullptr, x.map.stride_p,
                                                 kPair ? y->map.stride_p : 0, channels};
                     moments_of_pixels(maps, count, sums.data(), means.data(), squares.data(), to);
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

template <class T, bool kPair>
std::vector<double> moments_nchw(const ServedMap& x, const ServedMap* y, int64_t batch) {
  constexpr Layout kLayout = Layout::kNCHW;
  constexpr int64_t kNumbers = 2 * kObserved<kPair>;
  const int64_t channels = x.map.channels, pixels = x.map.pixels;
  std::vector<double> moments(batch * kNumbers * channels);
  torch::stable::parallel_for(0, batch * channels, ceil_div(kGrain, pixels), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / channels, c = task % channels;
      double of_channel[kNumbers];
      merge_blocks(0, pixels, block_pixels(kLayout, channels), kObserved<kPair>, of_channel,
                   [&](int64_t first, int64_t count, double* to) {
                     const T* run = x.at<T>(kLayout, n, c, first);
                     if constexpr (kPair) {
                       moments_of_runs(run, y->at<T>(kLayout, n, c, first), count, to);
                     } else {
                       moments_of_run(run, count, to);
                     }
                   });
      for (int64_t i = 0; i < kNumbers; ++i) moments[(n * kNumbers + i) * channels + c] = of_channel[i];
    }
  });
  return moments;
}

// -> (N, 2 observed, C): means, then variances
template <bool kPair>
std::vector<double> moments_of(const ServedMap& x, const ServedMap* y, Layout layout) {
  const int64_t batch = x.map.batch, channels = x.map.channels;
  std::vector<double> moments;
  dispatch_dtype(x.tensor, "features", [&](auto element) {
    using T = decltype(element);
    moments = layout == Layout::kNCHW ? moments_nchw<T, kPair>(x, y, batch) : moments_nhwc<T, kPair>(x, y, batch);
  });
  for (size_t i = 0; i < moments.size(); ++i) {
    const bool of_squares = i / (kObserved<kPair> * channels) % 2 == 1;
    // Below 0 by rounding, where nothing deviates; NaN stays.
    if (of_squares) moments[i] = moments[i] < 0 ? 0 : moments[i] / static_cast<double>(x.map.pixels);
  }
  return moments;
}

}  // namespace

std::vector<double> channel_moments(const ServedMap& x, Layout layout) { return moments_of<false>(x, nullptr, layout); }

std::vector<double> channel_moments(const ServedMap& x, const ServedMap& y, Layout layout) {
  return moments_of<true>(x, &y, layout);
}

}  // namespace perceptual_ops
