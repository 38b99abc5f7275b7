// bias_relu_pool on the CPU: rows of windows, each pixel's channels side by side.
#include "pool_cpu.h"

#include <limits>
#include <utility>

#include "arguments.h"
#include "channels_cpu.h"
#include "packed_cpu.h"

namespace perceptual_ops {
namespace {

// A row of windows in a map in NHWC order; distances in elements.
struct WindowRow {
  int64_t count, kernel, channels;
  int64_t step;   // from window to window
  int64_t pitch;  // from row to row of the map
  bool relu;
  uint8_t none;  // the code of a maximum that the ReLU does not pass
};

template <int kKernel, int... kPosition, class F>
PO_INLINE void unrolled(std::integer_sequence<int, kPosition...>, F&& f) {
  (f(kPosition / kKernel, kPosition % kKernel), ...);
}

// Calls f(row, column) for each position of a window; a kernel that is known (not 0) leaves no loop.
template <int kKernel, class F>
PO_INLINE void for_each_position(int64_t kernel, F&& f) {
  if constexpr (kKernel > 0) {
    unrolled<kKernel>(std::make_integer_sequence<int, kKernel * kKernel>{}, f);
  } else {
    for (int row = 0; row < kernel; ++row) {
      for (int column = 0; column < kernel; ++column) f(row, column);
    }
  }
}

// The first maximum of each window, or the last NaN, after the ReLU, and where it lies. Both are found in numbers as
// wide as the sums and narrowed after: gcc 12 takes masks of several widths in one loop apart into scalars.
template <int kKernel, bool kCodes, class T, class Out>
PO_INLINE void maxima_walk(const T* x, const Accumulator<T>* bias, const WindowRow& row, Out* out, uint8_t* codes) {
  using Acc = Accumulator<T>;
  using Code = std::conditional_t<std::is_same_v<Acc, double>, int64_t, int32_t>;
  constexpr int64_t kChannels = 256;  // at a time
  const Acc floor = row.relu ? Acc(0) : -std::numeric_limits<Acc>::infinity();
  const Code mark = row.relu ? row.none : 0;
  const int kernel = kKernel > 0 ? kKernel : row.kernel;
  const int64_t pitch = row.pitch;
  for (int64_t task = 0; task < row.count * ceil_div(row.channels, kChannels); ++task) {
    const int64_t window = task % row.count, first = task / row.count * kChannels;
    const int64_t count = std::min(kChannels, row.channels - first), place = window * row.channels + first;
    const T* corner = x + window * row.step + first;
    const Acc* shift = bias + first;
    Acc buffer[kChannels];
    Acc* maxima = buffer;
    if constexpr (std::is_same_v<Out, Acc>) maxima = out + place;
    Code positions[kChannels];
#pragma omp simd
    for (int64_t c = 0; c < count; ++c) {
      Acc best = -std::numeric_limits<Acc>::infinity();
      Code code = 0;
      for_each_position<kKernel>(kernel, [&](int i, int j) __attribute__((always_inline)) {
        const Acc value = static_cast<Acc>(corner[i * pitch + j * row.channels + c]) + shift[c];
        const bool better = value > best || value != value;
        best = better ? value : best;
        code = better ? i * kernel + j : code;
      });
      const bool passes = !(best <= floor);
      maxima[c] = passes ? best : floor;
      if constexpr (kCodes) positions[c] = passes ? code : code | mark;
    }
    if constexpr (!std::is_same_v<Out, Acc>) {
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) store_rounded(out[place + c], maxima[c]);
    }
    if constexpr (kCodes) {
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) codes[place + c] = static_cast<uint8_t>(positions[c]);
    }
  }
}

template <int kKernel, class T>
PO_INLINE void means_walk(const T* x, const Accumulator<T>* bias, const WindowRow& row, T* out) {
  using Acc = Accumulator<T>;
  const Acc floor = row.relu ? Acc(0) : -std::numeric_limits<Acc>::infinity();
  const int kernel = kKernel > 0 ? kKernel : row.kernel;
  const int64_t channels = row.channels, pitch = row.pitch;
  const Acc share = Acc(1) / static_cast<Acc>(kernel * kernel);
  for (int64_t window = 0; window < row.count; ++window) {
    const T* corner = x + window * row.step;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      Acc sum = 0;
      for_each_position<kKernel>(kernel, [&](int i, int j) __attribute__((always_inline)) {
        const Acc value = static_cast<Acc>(corner[i * pitch + j * channels + c]) + bias[c];
        sum += value <= floor ? floor : value;
      });
      store_rounded(out[window * channels + c], share * sum);
    }
  }
}

// The kernels that networks have, and any other; `codes` may be null.
template <class T, class Out>
PO_INLINE void any_maxima_walk(const T* x, const Accumulator<T>* bias, const WindowRow& row, Out* out, uint8_t* codes) {
  if (row.kernel == 2) {
    if (codes) return maxima_walk<2, true>(x, bias, row, out, codes);
    return maxima_walk<2, false>(x, bias, row, out, codes);
  }
  if (row.kernel == 3) {
    if (codes) return maxima_walk<3, true>(x, bias, row, out, codes);
    return maxima_walk<3, false>(x, bias, row, out, codes);
  }
  if (codes) return maxima_walk<0, true>(x, bias, row, out, codes);
  maxima_walk<0, false>(x, bias, row, out, codes);
}

// out = sum of the filter's three rows of maxima, in quarters.
template <class Acc>
PO_INLINE void vertical_walk(const Acc* above, const Acc* middle, const Acc* below, Acc* out, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] = above[i] + Acc(2) * middle[i] + below[i];
}

template <class T>
PO_INLINE void horizontal_walk(const Accumulator<T>* row, const Taps& taps, int64_t channels, T* out) {
  using Acc = Accumulator<T>;
  for (const auto& tap : taps) {
    const Acc *left = row + tap[0].index * channels, *middle = row + tap[1].index * channels,
              *right = row + tap[2].index * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      store_rounded(out[c], (left[c] + Acc(2) * middle[c] + right[c]) * Acc(0.0625));
    }
    out += channels;
  }
}

// Clones cannot be templates.
#define PO_MAXIMA_ROW(T, Out)                                                                           \
  PO_CPU_CLONES void maxima_row(const T* x, const Accumulator<T>* bias, const WindowRow& row, Out* out, \
                                uint8_t* codes) {                                                       \
    any_maxima_walk(x, bias, row, out, codes);                                                          \
  }
#define PO_POOL_ROWS(T)                                                                                      \
  PO_MAXIMA_ROW(T, T)                                                                                        \
  PO_CPU_CLONES void means_row(const T* x, const Accumulator<T>* bias, const WindowRow& row, T* out) {       \
    row.kernel == 2   ? means_walk<2>(x, bias, row, out)                                                     \
    : row.kernel == 3 ? means_walk<3>(x, bias, row, out)                                                     \
                      : means_walk<0>(x, bias, row, out);                                                    \
  }                                                                                                          \
  PO_CPU_CLONES void horizontal_row(const Accumulator<T>* row, const Taps& taps, int64_t channels, T* out) { \
    horizontal_walk(row, taps, channels, out);                                                               \
  }
#define PO_VERTICAL_ROW(Acc)                                                                                        \
  PO_CPU_CLONES void vertical_row(const Acc* above, const Acc* middle, const Acc* below, Acc* out, int64_t count) { \
    vertical_walk(above, middle, below, out, count);                                                                \
  }
PO_POOL_ROWS(float)
PO_POOL_ROWS(double)
PO_POOL_ROWS(Half)
PO_POOL_ROWS(BFloat16)
PO_MAXIMA_ROW(Half, float)
PO_MAXIMA_ROW(BFloat16, float)
PO_VERTICAL_ROW(float)
PO_VERTICAL_ROW(double)

// One sample's pooling.
template <class T>
struct Sample {
  const Pooling& pooling;
  const WindowRow& row;
  const Accumulator<T>* bias;  // (C)
  const T* x;                  // (H, W, C)
  uint8_t* codes;              // packed, or null
  T* out;                      // (H', W', C)

  int64_t pitch() const { return row.count * row.channels; }  // of rows of windows
  const T* corner(int64_t h) const { return x + h * pooling.step() * row.pitch; }
};

// The maxima of the rows of windows begin, ..., end - 1, and their codes: an even number of rows, or the last ones, so
// that the codes begin at a whole byte.
template <class T, class Out>
void maxima_and_codes(const Sample<T>& sample, int64_t begin, int64_t end, Out* out) {
  const int64_t pitch = sample.pitch(), bits = sample.pooling.code_bits();
  const auto unpacked = uninitialized<uint8_t>(sample.codes ? unpacked_size((end - begin) * pitch) : 0);
  for (int64_t h = begin; h < end; ++h) {
    const int64_t place = (h - begin) * pitch;
    maxima_row(sample.corner(h), sample.bias, sample.row, out + place, sample.codes ? &unpacked[place] : nullptr);
  }
  if (sample.codes) pack_codes(unpacked.get(), (end - begin) * pitch, bits, sample.codes + begin * pitch * bits / 8);
}

// The filter's taps along both axes.
struct Filter {
  Taps rows, columns;
};

// The rows of windows begin, ..., end - 1 and the outputs whose middle row is one of them, or next to one beyond the
// border. Rows of maxima that those outputs read beside are computed again.
template <class T>
void blurred_band(const Sample<T>& sample, const Filter& filter, int64_t begin, int64_t end) {
  using Acc = Accumulator<T>;
  const int64_t pitch = sample.pitch(), windows = sample.pooling.windows_height(), stride = sample.pooling.stride;
  std::vector<int64_t> outputs;
  int64_t first = begin, last = end - 1;
  for (int64_t out = 0; out < sample.pooling.out_height(); ++out) {
    const int64_t middle = std::clamp<int64_t>(out * stride + 1 - Pooling::kBlurPadding, 0, windows - 1);
    if (middle < begin || middle >= end) continue;
    outputs.push_back(out);
    for (const FilterTap& tap : filter.rows[out]) {
      first = std::min(first, tap.index);
      last = std::max(last, tap.index);
    }
  }
  const auto maxima = uninitialized<Acc>((last + 1 - first) * pitch), column = uninitialized<Acc>(pitch);
  const auto row_of = [&](int64_t h) { return &maxima[(h - first) * pitch]; };
  for (int64_t h = first; h <= last; ++h) {
    if (h == begin) maxima_and_codes(sample, begin, end, row_of(begin));
    if (h < begin || h >= end) maxima_row(sample.corner(h), sample.bias, sample.row, row_of(h), nullptr);
  }
  for (const int64_t out : outputs) {
    const auto& taps = filter.rows[out];
    vertical_row(row_of(taps[0].index), row_of(taps[1].index), row_of(taps[2].index), column.get(), pitch);
    horizontal_row(column.get(), filter.columns, sample.row.channels,
                   sample.out + out * sample.pooling.out_width() * sample.row.channels);
  }
}

template <class T>
void pooled_band(const Sample<T>& sample, const Filter& filter, int64_t begin, int64_t end) {
  switch (sample.pooling.kind) {
    case PoolKind::kMax:
      return maxima_and_codes(sample, begin, end, sample.out + begin * sample.pitch());
    case PoolKind::kAverage:
      for (int64_t h = begin; h < end; ++h) {
        means_row(sample.corner(h), sample.bias, sample.row, sample.out + h * sample.pitch());
      }
      return;
    case PoolKind::kBlur:
      return blurred_band(sample, filter, begin, end);
  }
}

}  // namespace

std::tuple<Tensor, Tensor> bias_relu_pool_cpu(const Tensor x,                    // (N, C, H, W)
                                              const std::optional<Tensor> bias,  // (C)
                                              bool relu, const Name kind, int64_t kernel, int64_t stride, bool codes) {
  check_map(x, "x");
  check_float(x, "x");
  if (bias) check_channels(*bias, "bias", x);
  const Pooling pooling = checked_pooling(x, kind, kernel, stride);
  const int64_t batch = x.size(0), channels = x.size(1);
  const Tensor dense = dense_samples(x, Layout::kNHWC);
  const Tensor out =
      empty_channels_last(x, {batch, channels, pooling.out_height(), pooling.out_width()}, x.scalar_type());
  const bool has_codes = codes && pooling.kind != PoolKind::kAverage;
  const int64_t code_bytes = pooling.code_bytes(channels);
  const Tensor packed = has_codes ? torch::stable::new_empty(x, {batch, code_bytes}, ScalarType::Byte)
                                  : torch::stable::new_empty(x, {0}, ScalarType::Byte);
  const WindowRow row{pooling.windows_width(),
                      kernel,
                      channels,
                      pooling.step() * channels,
                      pooling.width * channels,
                      relu,
                      static_cast<uint8_t>(pooling.code_bits() == 4 ? 0x0f : 0xff)};
  const Filter filter = pooling.kind == PoolKind::kBlur ? Filter{filter_taps(pooling, pooling.windows_height()),
                                                                 filter_taps(pooling, pooling.windows_width())}
                                                        : Filter{};
  dispatch_dtype(x, "x", [&](auto element) {
    using T = decltype(element);
    const auto biases = repeated<Accumulator<T>>(bias, channels, channels);
    for_each_band(
        batch, pooling.windows_height(), pooling.kind == PoolKind::kBlur ? kBlurBand : 2, pooling.step() * row.pitch,
        [&](int64_t n, int64_t begin, int64_t end) {
          const int64_t out_size = channels * pooling.out_height() * pooling.out_width();
          pooled_band(
              Sample<T>{pooling, row, biases.data(), static_cast<const T*>(dense.data_ptr()) + n * dense.stride(0),
                        has_codes ? static_cast<uint8_t*>(packed.data_ptr()) + n * code_bytes : nullptr,
                        static_cast<T*>(out.data_ptr()) + n * out_size},
              filter, begin, end);
        });
  });
  return {out, packed};  // (N, C, H', W'), (N, bytes of codes) or (0)
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) { m.impl("bias_relu_pool", TORCH_BOX(&bias_relu_pool_cpu)); }

}  // namespace perceptual_ops
