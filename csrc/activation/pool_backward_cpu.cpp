// bias_relu_pool_backward_ on the CPU: each pixel gathers from the windows that cover it, in their order.
#include "arguments.h"
#include "masked_cpu.h"
#include "packed_cpu.h"
#include "pool_cpu.h"

namespace perceptual_ops {
namespace {

// Which of `count` windows along an axis cover a place: first, ..., last, none where last < first.
struct Cover {
  int64_t first, last;
};

PO_INLINE Cover cover_of(int64_t place, int64_t kernel, int64_t step, int64_t count) {
  return {place < kernel ? 0 : (place - kernel) / step + 1, std::min(place / step, count - 1)};
}

// A row of windows as the pixels of a row that it covers see it.
struct CoveringRow {
  int64_t count, kernel, step, channels;
  int64_t offset;  // from the windows' first row to the pixels'
};

// sum[pixel - begin][c] += grad of the windows that cover the pixel, where their maximum is the pixel: `codes` tell, or
// are null where every pixel of a window has its share. Codes are compared as wide as sums, and gradients widened
// whatever they say: else gcc 12 takes the loop apart into scalars in 16 bits.
template <class G, class Acc>
PO_INLINE void gather_walk(const G* grad, const uint8_t* codes, const CoveringRow& row, int64_t begin, int64_t end,
                           Acc* sum) {
  const int64_t channels = row.channels;
  for (int64_t pixel = begin; pixel < end; ++pixel, sum += channels) {
    const Cover cover = cover_of(pixel, row.kernel, row.step, row.count);
    for (int64_t window = cover.first; window <= cover.last; ++window) {
      const G* from = grad + window * channels;
      if (codes == nullptr) {
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) sum[c] += static_cast<Acc>(from[c]);
        continue;
      }
      const uint8_t* code = codes + window * channels;
      const auto position = static_cast<int32_t>(row.offset * row.kernel + pixel - window * row.step);
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const Acc value = static_cast<Acc>(from[c]);
        const int32_t at = code[c];
        sum[c] += at == position ? value : Acc(0);
      }
    }
  }
}

// sum[i] += weight * grad[i].
template <class G, class Acc>
PO_INLINE void weighted_walk(const G* grad, Acc weight, Acc* sum, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) sum[i] += weight * static_cast<Acc>(grad[i]);
}

// Clones cannot be templates.
#define PO_GATHER(G, Acc)                                                                                            \
  PO_CPU_CLONES void gather(const G* grad, const uint8_t* codes, const CoveringRow& row, int64_t begin, int64_t end, \
                            Acc* sum) {                                                                              \
    gather_walk(grad, codes, row, begin, end, sum);                                                                  \
  }                                                                                                                  \
  PO_CPU_CLONES void add_weighted(const G* grad, Acc weight, Acc* sum, int64_t count) {                              \
    weighted_walk(grad, weight, sum, count);                                                                         \
  }
PO_GATHER(float, float)
PO_GATHER(double, double)
PO_GATHER(Half, float)
PO_GATHER(BFloat16, float)

// One sample's gradients.
template <class T>
struct Sample {
  const Pooling& pooling;
  int64_t channels;
  const T* grad;         // (H', W', C)
  const uint8_t* codes;  // packed, or null
  int64_t index;

  int64_t pitch() const { return pooling.windows_width() * channels; }  // of rows of windows
};

// The filter's transpose: sixteen times the gradients of the rows of maxima begin, ..., end - 1.
template <class T>
void filter_gradient(const Sample<T>& sample, const Taps& rows, const Taps& columns, int64_t begin, int64_t end,
                     Accumulator<T>* out) {
  using Acc = Accumulator<T>;
  const int64_t channels = sample.channels, pitch = sample.pooling.out_width() * channels;
  std::vector<Acc> column(pitch);
  std::fill_n(out, (end - begin) * sample.pitch(), Acc(0));
  for (int64_t h = begin; h < end; ++h) {
    std::fill(column.begin(), column.end(), Acc(0));
    for (const FilterTap& tap : rows[h]) {
      add_weighted(sample.grad + tap.index * pitch, Acc(tap.weight), column.data(), pitch);
    }
    for (const auto& taps : columns) {
      for (const FilterTap& tap : taps) add_weighted(&column[tap.index * channels], Acc(tap.weight), out, channels);
      out += channels;
    }
  }
}

// The rows of pixels begin, ..., end - 1 from the gradients of the rows of windows that cover them, `grad` from row
// `first` on; returns as Masked::store.
template <class G, class T>
uint64_t gathered_rows(const Sample<T>& sample, const Masked<T>& masked, int64_t begin, int64_t end, int64_t first,
                       const G* grad, const uint8_t* codes) {
  const Pooling& pooling = sample.pooling;
  const int64_t channels = sample.channels, tile = std::max<int64_t>(1, kBlock / channels);
  std::vector<Accumulator<T>> sum(tile * channels);
  uint64_t largest = 0;
  for (int64_t h = begin; h < end; ++h) {
    const Cover cover = cover_of(h, pooling.kernel, pooling.step(), pooling.windows_height());
    for (int64_t w = 0; w < pooling.width; w += tile) {
      const int64_t stop = std::min(w + tile, pooling.width);
      std::fill(sum.begin(), sum.end(), Accumulator<T>(0));
      for (int64_t window = cover.first; window <= cover.last; ++window) {
        const CoveringRow row{pooling.windows_width(), pooling.kernel, pooling.step(), channels,
                              h - window * pooling.step()};
        const int64_t place = (window - first) * sample.pitch();
        gather(grad + place, codes ? codes + place : nullptr, row, w, stop, sum.data());
      }
      const int64_t at = (h * pooling.width + w) * channels;
      largest = std::max(largest, masked.store(sample.index, at, (stop - w) * channels, sum.data()));
    }
  }
  return largest;
}

template <class T>
uint64_t gathered_band(const Sample<T>& sample, const Masked<T>& masked, const Taps& rows, const Taps& columns,
                       int64_t begin, int64_t end) {
  const Pooling& pooling = sample.pooling;
  const int64_t pitch = sample.pitch(), windows = pooling.windows_height();
  const int64_t first = cover_of(begin, pooling.kernel, pooling.step(), windows).first;
  const int64_t stop = cover_of(end - 1, pooling.kernel, pooling.step(), windows).last + 1;
  const int64_t count = std::max<int64_t>(0, stop - first) * pitch;
  const auto buffer = uninitialized<uint8_t>(sample.codes ? unpacked_size(count) : 0);
  const uint8_t* codes = sample.codes && count
                             ? unpack_codes(sample.codes, first * pitch, count, pooling.code_bits(), buffer.get())
                             : nullptr;
  if (pooling.kind != PoolKind::kBlur) {
    return gathered_rows(sample, masked, begin, end, first, sample.grad + first * pitch, codes);
  }
  const auto of_maxima = uninitialized<Accumulator<T>>(count);
  filter_gradient(sample, rows, columns, first, stop, of_maxima.get());
  return gathered_rows(sample, masked, begin, end, first, of_maxima.get(), codes);
}

// What the gathered gradients are multiplied by: the shares of a mean, the sixteenths of the filter.
double gain_of(const Pooling& pooling) {
  if (pooling.kind == PoolKind::kMax) return 1.0;
  return pooling.kind == PoolKind::kBlur ? 1.0 / 16.0 : 1.0 / static_cast<double>(pooling.kernel * pooling.kernel);
}

}  // namespace

void bias_relu_pool_backward_cpu(const Tensor x,                     // (N, C, H, W)
                                 const Tensor grad,                  // (N, C, H', W')
                                 const std::optional<Tensor> codes,  // (N, bytes)
                                 const std::optional<Tensor> signs,  // (N, ceil(C H W / 8))
                                 bool tap,
                                 const std::optional<Tensor> below,   // (N, C, H, W)
                                 const std::optional<Tensor> factor,  // (N)
                                 const Name kind, int64_t kernel, int64_t stride,
                                 const std::optional<Tensor> maxima) {  // (N)
  check_written(x, "x");
  const Pooling pooling = checked_pooling(x, kind, kernel, stride);
  check_pooled(grad, codes, x, pooling);
  check_terms(signs, std::nullopt, below, factor, maxima, x);
  const bool blur = pooling.kind == PoolKind::kBlur;
  const int64_t channels = x.size(1), code_bytes = pooling.code_bytes(channels);
  const Taps rows =
      blur ? transposed_taps(filter_taps(pooling, pooling.windows_height()), pooling.windows_height()) : Taps{};
  const Taps columns =
      blur ? transposed_taps(filter_taps(pooling, pooling.windows_width()), pooling.windows_width()) : Taps{};
  const Tensor dense = dense_samples(grad, Layout::kNHWC);
  const bool has_codes = pooling.kind != PoolKind::kAverage;
  const std::optional<Tensor> packed = has_codes ? std::optional(torch::stable::contiguous(*codes)) : std::nullopt;
  // Rows of pixels that read each row of codes once, where windows do not overlap.
  const int64_t band = blur ? kBlurBand : std::min(stride, pooling.height);
  const int64_t bands = ceil_div(pooling.height, band);
  std::vector<uint64_t> largest(x.size(0) * bands);
  dispatch_dtype(x, "x", [&](auto element) {
    using T = decltype(element);
    const Masked<T> masked(x, signs, tap ? std::optional(x) : std::nullopt, below, factor, gain_of(pooling));
    for_each_band(
        x.size(0), pooling.height, band, pooling.width * channels, [&](int64_t n, int64_t begin, int64_t end) {
          const Sample<T> sample{pooling, channels, static_cast<const T*>(dense.data_ptr()) + n * dense.stride(0),
                                 packed ? static_cast<const uint8_t*>(packed->data_ptr()) + n * code_bytes : nullptr,
                                 n};
          largest[n * bands + begin / band] = gathered_band(sample, masked, rows, columns, begin, end);
        });
  });
  raise_maxima(x, largest, maxima);
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("bias_relu_pool_backward_", TORCH_BOX(&bias_relu_pool_backward_cpu));
}

}  // namespace perceptual_ops
