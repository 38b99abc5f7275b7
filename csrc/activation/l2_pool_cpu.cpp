// l2_pool on the CPU: a row of the result from three rows of the map, each pixel's channels side by side.
#include <cmath>

#include "arguments.h"
#include "pool_cpu.h"

namespace perceptual_ops {
namespace {

constexpr double kSixteenth = 1.0 / 16.0;  // in which the filter's weights, [1, 2, 1] x [1, 2, 1], count
constexpr int64_t kL2PoolBand = 8;         // rows of the result that one thread makes

// The filter along the columns of the map.
template <class T>
PO_INLINE void squares_walk(const T* above, const T* middle, const T* below, int64_t count, Accumulator<T>* sums) {
  using Acc = Accumulator<T>;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Acc a = static_cast<Acc>(above[i]), b = static_cast<Acc>(middle[i]), c = static_cast<Acc>(below[i]);
    sums[i] = a * a + Acc(2) * (b * b) + c * c;
  }
}

// The filter along the row, and the root: the length of each window. `sums` begins with a border of one pixel.
template <class Acc>
PO_INLINE Acc length_at(const Acc* sums, int64_t channels) {
  const Acc sum = sums[0] + Acc(2) * sums[channels] + sums[2 * channels];
  return std::sqrt(Acc(kSixteenth) * sum + Acc(kL2PoolEps));
}

template <class T>
PO_INLINE void lengths_walk(const Accumulator<T>* sums, int64_t windows, int64_t channels, T* out) {
  for (int64_t window = 0; window < windows; ++window, sums += 2 * channels, out += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) store_rounded(out[c], length_at(sums + c, channels));
  }
}

// A sixteenth of grad / length.
template <class T>
PO_INLINE void shares_walk(const Accumulator<T>* sums, const T* grad, int64_t windows, int64_t channels,
                           Accumulator<T>* out) {
  using Acc = Accumulator<T>;
  for (int64_t window = 0; window < windows; ++window) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      out[c] = Acc(kSixteenth) * static_cast<Acc>(grad[c]) / length_at(sums + c, channels);
    }
    sums += 2 * channels;
    grad += channels;
    out += channels;
  }
}

// Pixels of a row lie in the windows of two rows, `upper` and `lower`, and of two columns. Where both are one, in the
// middle of a window, that one counts twice, as the filter has it.
template <class T>
PO_INLINE void gradient_walk(const T* x, const Accumulator<T>* upper, const Accumulator<T>* lower, int64_t width,
                             int64_t channels, T* out) {
  using Acc = Accumulator<T>;
  for (int64_t w = 0; w < width; ++w, x += channels, out += channels) {
    const int64_t left = w / 2 * channels, right = (w + 1) / 2 * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const Acc shares = (upper[left + c] + lower[left + c]) + (upper[right + c] + lower[right + c]);
      store_rounded(out[c], static_cast<Acc>(x[c]) * shares);
    }
  }
}

// Clones cannot be templates.
#define PO_L2_POOL_ROWS(T)                                                                                      \
  PO_CPU_CLONES void filter_squares(const T* above, const T* middle, const T* below, int64_t count,             \
                                    Accumulator<T>* sums) {                                                     \
    squares_walk(above, middle, below, count, sums);                                                            \
  }                                                                                                             \
  PO_CPU_CLONES void store_lengths(const Accumulator<T>* sums, int64_t windows, int64_t channels, T* out) {     \
    lengths_walk(sums, windows, channels, out);                                                                 \
  }                                                                                                             \
  PO_CPU_CLONES void store_shares(const Accumulator<T>* sums, const T* grad, int64_t windows, int64_t channels, \
                                  Accumulator<T>* out) {                                                        \
    shares_walk(sums, grad, windows, channels, out);                                                            \
  }                                                                                                             \
  PO_CPU_CLONES void store_gradient(const T* x, const Accumulator<T>* upper, const Accumulator<T>* lower,       \
                                    int64_t width, int64_t channels, T* out) {                                  \
    gradient_walk(x, upper, lower, width, channels, out);                                                       \
  }
PO_L2_POOL_ROWS(float)
PO_L2_POOL_ROWS(double)
PO_L2_POOL_ROWS(Half)
PO_L2_POOL_ROWS(BFloat16)

// One sample's map, and what one thread holds of it: the squares of a row of windows, filtered along the columns.
template <class T>
class WindowSums {
 public:
  WindowSums(const T* x, int64_t height, int64_t width, int64_t channels)  // (H, W, C)
      : x_(x),
        height_(height),
        pitch_(width * channels),
        channels_(channels),
        border_(pitch_, T(0)),
        sums_(pitch_ + 2 * channels, Accumulator<T>(0)) {}

  const Accumulator<T>* row(int64_t window) {
    const int64_t h = 2 * window;
    const T *above = h > 0 ? at(h - 1) : border_.data(), *below = h + 1 < height_ ? at(h + 1) : border_.data();
    filter_squares(above, at(h), below, pitch_, &sums_[channels_]);
    return sums_.data();
  }

  const T* at(int64_t h) const { return x_ + h * pitch_; }

 private:
  const T* x_;
  int64_t height_, pitch_, channels_;
  std::vector<T> border_;
  std::vector<Accumulator<T>> sums_;
};

}  // namespace

Tensor l2_pool_cpu(const Tensor x) {  // (N, C, H, W)
  check_map(x, "x");
  check_float(x, "x");
  const int64_t batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const int64_t rows = l2_pooled(height), windows = l2_pooled(width);
  const Tensor dense = dense_samples(x, Layout::kNHWC);
  const Tensor out = empty_channels_last(x, {batch, channels, rows, windows}, x.scalar_type());
  dispatch_dtype(x, "x", [&](auto element) {
    using T = decltype(element);
    for_each_band(batch, rows, kL2PoolBand, 2 * width * channels, [&](int64_t n, int64_t begin, int64_t end) {
      WindowSums<T> sums(static_cast<const T*>(dense.data_ptr()) + n * dense.stride(0), height, width, channels);
      for (int64_t row = begin; row < end; ++row) {
        store_lengths(sums.row(row), windows, channels,
                      static_cast<T*>(out.data_ptr()) + (n * rows + row) * windows * channels);
      }
    });
  });
  return out;  // (N, C, H', W')
}

Tensor l2_pool_backward_cpu(const Tensor grad,  // (N, C, H', W')
                            const Tensor x) {   // (N, C, H, W)
  check_map(x, "x");
  check_float(x, "x");
  check_l2_pooled(grad, x);
  const int64_t batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const int64_t rows = l2_pooled(height), windows = l2_pooled(width);
  const Tensor dense = dense_samples(x, Layout::kNHWC), dense_grad = dense_samples(grad, Layout::kNHWC);
  const Tensor out = empty_channels_last(x, x.sizes().vec(), x.scalar_type());
  dispatch_dtype(x, "x", [&](auto element) {
    using T = decltype(element);
    for_each_band(batch, rows, kL2PoolBand, 2 * width * channels, [&](int64_t n, int64_t begin, int64_t end) {
      WindowSums<T> sums(static_cast<const T*>(dense.data_ptr()) + n * dense.stride(0), height, width, channels);
      const T* of_sample = static_cast<const T*>(dense_grad.data_ptr()) + n * dense_grad.stride(0);
      T* to = static_cast<T*>(out.data_ptr()) + n * height * width * channels;
      // The windows beyond the last row and the last column have no share.
      std::vector<Accumulator<T>> upper((windows + 1) * channels), lower(upper);
      const auto find_shares = [&](int64_t row, std::vector<Accumulator<T>>& shares) {
        if (row == rows) {
          std::fill(shares.begin(), shares.end(), Accumulator<T>(0));
        } else {
          store_shares(sums.row(row), of_sample + row * windows * channels, windows, channels, shares.data());
        }
      };
      find_shares(begin, upper);
      for (int64_t row = begin; row < end; ++row, upper.swap(lower)) {
        const int64_t h = 2 * row, pitch = width * channels;
        store_gradient(sums.at(h), upper.data(), upper.data(), width, channels, to + h * pitch);
        if (h + 1 == height) break;
        find_shares(row + 1, lower);
        store_gradient(sums.at(h + 1), upper.data(), lower.data(), width, channels, to + (h + 1) * pitch);
      }
    });
  });
  return out;  // (N, C, H, W)
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("l2_pool", TORCH_BOX(&l2_pool_cpu));
  m.impl("l2_pool_backward", TORCH_BOX(&l2_pool_backward_cpu));
}

}  // namespace perceptual_ops
