// A matrix and its transpose are processed in pairs of tiles that fit L1, so that neither is read column by column.
#include "slopes_cpu.h"

namespace perceptual_ops {
namespace {

constexpr int64_t kTile = 32;  // rows and columns: a pair of fp32 tiles takes 8 KB

// A tile on or above the diagonal of a square matrix and its mirror image below.
struct TilePair {
  int64_t pitch;                       // elements from row to row
  int64_t row, column, rows, columns;  // of the upper tile

  bool on_diagonal() const { return row == column; }
  int64_t upper() const { return row * pitch + column; }
  int64_t lower() const { return column * pitch + row; }
};

// Calls f(task, sample, pair) for every pair of tiles of `batch` matrices, in parallel.
template <class F>
void for_each_pair(int64_t batch, int64_t channels, F&& f) {
  const int64_t tiles = ceil_div(channels, kTile), pairs = tiles * (tiles + 1) / 2;
  torch::stable::parallel_for(0, batch * pairs, kGrain / (2 * kTile * kTile), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      int64_t row = 0, column = task % pairs;
      for (; column >= tiles - row; ++row) column -= tiles - row;
      const int64_t i = row * kTile, j = (row + column) * kTile;
      f(task, task / pairs, TilePair{channels, i, j, std::min(kTile, channels - i), std::min(kTile, channels - j)});
    }
  });
}

// Stores factor * (upper + lower^T) and its mirror image, where both are tiles of kTile columns.
template <class T>
PO_INLINE void store_pair(const TilePair& pair, T* upper, const T* lower, T factor, T* out) {
  for (int64_t i = 0; i < pair.rows; ++i) {
#pragma omp simd
    for (int64_t j = 0; j < pair.columns; ++j) {
      upper[i * kTile + j] = factor * (upper[i * kTile + j] + lower[j * kTile + i]);
      out[pair.upper() + i * pair.pitch + j] = upper[i * kTile + j];
    }
  }
  if (pair.on_diagonal()) return;
  for (int64_t j = 0; j < pair.columns; ++j) {
#pragma omp simd
    for (int64_t i = 0; i < pair.rows; ++i) out[pair.lower() + j * pair.pitch + i] = upper[i * kTile + j];
  }
}

// Copies a tile.
template <class T>
PO_INLINE void load_tile(const T* from, int64_t pitch, int64_t rows, int64_t columns, T* tile) {
  for (int64_t i = 0; i < rows; ++i) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) tile[i * kTile + j] = from[i * pitch + j];
  }
}

// The slopes of a tile's distances to the target, and the sum of the distances.
template <Distance kDistance, class T>
PO_INLINE double load_slopes(const T* raw, const T* target, int64_t pitch, int64_t rows, int64_t columns, T scale,
                             T parameter, T* tile) {
  T sum = 0;
  for (int64_t i = 0; i < rows; ++i) {
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < columns; ++j) {
      const Point<T> point = distance_at<kDistance>(scale * raw[i * pitch + j] - target[i * pitch + j], parameter);
      sum += point.value;
      tile[i * kTile + j] = point.slope;
    }
  }
  return static_cast<double>(sum);
}

template <class T>
PO_INLINE void symmetrise_pair_impl(const TilePair& pair, const T* from, double factor, T* out) {
  T upper[kTile * kTile], lower[kTile * kTile];
  load_tile(from + pair.upper(), pair.pitch, pair.rows, pair.columns, upper);
  load_tile(from + pair.lower(), pair.pitch, pair.columns, pair.rows, lower);
  store_pair(pair, upper, lower, static_cast<T>(factor), out);
}

template <Distance kDistance, class T>
PO_INLINE double finish_pair_impl(const TilePair& pair, T* raw, const T* target, double scale, double parameter,
                                  double factor) {
  T upper[kTile * kTile], lower[kTile * kTile];
  const T s = static_cast<T>(scale), p = static_cast<T>(parameter);
  const double above = load_slopes<kDistance>(raw + pair.upper(), target + pair.upper(), pair.pitch, pair.rows,
                                              pair.columns, s, p, upper);
  const double below = load_slopes<kDistance>(raw + pair.lower(), target + pair.lower(), pair.pitch, pair.columns,
                                              pair.rows, s, p, lower);
  store_pair(pair, upper, lower, static_cast<T>(factor), raw);
  return pair.on_diagonal() ? above : above + below;
}

template <class T>
PO_INLINE void scale_row_impl(const T* from, T* to, int64_t count, double factor) {
  const T f = static_cast<T>(factor);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = f * from[i];
}

// Clones cannot be templates.
#define PO_FINISH(kDistance, T)                                                                               \
  PO_CPU_CLONES double finish_pair(std::integral_constant<Distance, kDistance>, const TilePair& pair, T* raw, \
                                   const T* target, double scale, double parameter, double factor) {          \
    return finish_pair_impl<kDistance>(pair, raw, target, scale, parameter, factor);                          \
  }
#define PO_SLOPES_OF(T)                                                                            \
  PO_FINISH(Distance::kSquared, T)                                                                 \
  PO_FINISH(Distance::kL1, T)                                                                      \
  PO_FINISH(Distance::kCharbonnier, T)                                                             \
  PO_FINISH(Distance::kHuber, T)                                                                   \
  PO_CPU_CLONES void symmetrise_pair(const TilePair& pair, const T* from, double factor, T* out) { \
    symmetrise_pair_impl(pair, from, factor, out);                                                 \
  }                                                                                                \
  PO_CPU_CLONES void scale_row(const T* from, T* to, int64_t count, double factor) {               \
    scale_row_impl(from, to, count, factor);                                                       \
  }
PO_SLOPES_OF(float)
PO_SLOPES_OF(double)

// Calls f(T{}) for the accumulation type of `gram`.
template <class F>
void dispatch_gram(const Tensor& gram, F&& f) {
  if (gram.scalar_type() == ScalarType::Double) return f(double{});
  check(gram.scalar_type() == ScalarType::Float, "gram: expected dtype float32 or float64");
  f(float{});
}

}  // namespace

Tensor symmetrised(const Tensor& slopes, double factor) {
  const Tensor dense = torch::stable::contiguous(slopes);
  Tensor out = torch::stable::empty_like(dense);
  const int64_t channels = dense.size(1), area = channels * channels;
  dispatch_gram(dense, [&](auto element) {
    using T = decltype(element);
    const T* from = static_cast<const T*>(dense.data_ptr());
    T* to = static_cast<T*>(out.data_ptr());
    for_each_pair(dense.size(0), channels, [&](int64_t, int64_t n, const TilePair& pair) {
      symmetrise_pair(pair, from + n * area, factor, to + n * area);
    });
  });
  return out;
}

void finish_grams(const Tensor& raw, const Tensor& targets, double scale, DistanceKind kind, double parameter,
                  const std::vector<double>& factors, double* value) {
  const int64_t batch = raw.size(0), channels = raw.size(1), area = channels * channels;
  const int64_t tiles = ceil_div(channels, kTile), pairs = tiles * (tiles + 1) / 2;
  const Tensor target = torch::stable::contiguous(targets);
  const int64_t target_stride = target.size(0) == 1 ? 0 : area;
  std::vector<double> sums(batch * pairs);
  dispatch_gram(raw, [&](auto element) {
    using T = decltype(element);
    T* raw_data = static_cast<T*>(raw.data_ptr());
    const T* target_data = static_cast<const T*>(target.data_ptr());
    dispatch_distance(kind.distance, [&](auto distance) {
      for_each_pair(batch, channels, [&](int64_t task, int64_t n, const TilePair& pair) {
        sums[task] = finish_pair(distance, pair, raw_data + n * area, target_data + n * target_stride, scale, parameter,
                                 factors[n] * kind.scale(area) * scale);
      });
    });
  });
  for (int64_t n = 0; n < batch; ++n) value[n] = kind.scale(area) * ordered_sum(sums, n * pairs, pairs);
}

void scale_samples(const Tensor& matrices, const std::vector<double>& factors, const Tensor& out) {
  const int64_t channels = matrices.size(1);
  dispatch_gram(matrices, [&](auto element) {
    using T = decltype(element);
    const T* from = static_cast<const T*>(matrices.data_ptr());
    T* to = static_cast<T*>(out.data_ptr());
    const int64_t rows = matrices.size(0) * channels;
    torch::stable::parallel_for(0, rows, ceil_div(kGrain, channels), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        scale_row(from + row * channels, to + row * channels, channels, factors[row / channels]);
      }
    });
  });
}

}  // namespace perceptual_ops
