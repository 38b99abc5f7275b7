// total_variation on the CPU: differences to the right and to the row below, summed row by row in a fixed order.
#include <cmath>
#include <string>

#include "../common/arguments.h"
#include "../common/cpu.h"
#include "../common/layers.h"

namespace perceptual_ops {
namespace {

// A dense sample as rows of numbers: in NCHW a row is one channel's row of pixels, in NHWC a row of all channels. The
// pixel to the right is `step` elements on, the row below `length` elements.
struct Rows {
  int64_t planes, height, length, step;

  int64_t count() const { return planes * height; }
  bool has_below(int64_t row) const { return row % height + 1 < height; }
  bool has_above(int64_t row) const { return row % height > 0; }
};

Rows rows_of(const Tensor& x, Layout layout) {  // (N, C, H, W)
  if (layout == Layout::kNCHW) return {x.size(1), x.size(2), x.size(3), 1};
  return {1, x.size(2), x.size(3) * x.size(1), x.size(1)};
}

// Sum of d(x[i + step] - x[i]) over `right` elements, and of d(x[i + length] - x[i]) over `below` elements.
template <Distance kDistance, class T>
PO_INLINE double differences_sum(const T* x, int64_t right, int64_t step, int64_t below, int64_t length) {
  using Acc = Accumulator<T>;
  Acc sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < right; ++i) {
    sum += distance_at<kDistance>(static_cast<Acc>(x[i + step]) - static_cast<Acc>(x[i]), Acc(0)).value;
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < below; ++i) {
    sum += distance_at<kDistance>(static_cast<Acc>(x[i + length]) - static_cast<Acc>(x[i]), Acc(0)).value;
  }
  return static_cast<double>(sum);
}

// A pixel is the right end of one difference, the left end of another, and so below and above.
template <Distance kDistance, class T>
PO_INLINE void row_gradient(const T* x, T* dx, int64_t length, int64_t step, bool has_above, bool has_below,
                            double factor) {
  using Acc = Accumulator<T>;
  const Acc f = static_cast<Acc>(factor);
  const auto slope = [&](int64_t to, int64_t from) {
    return distance_at<kDistance>(static_cast<Acc>(x[to]) - static_cast<Acc>(x[from]), Acc(0)).slope;
  };
  for (int64_t i = 0; i < length; ++i) {
    Acc sum = 0;
    if (i >= step) sum += slope(i, i - step);
    if (i < length - step) sum -= slope(i + step, i);
    if (has_above) sum += slope(i, i - length);
    if (has_below) sum -= slope(i + length, i);
    dx[i] = static_cast<T>(f * sum);
  }
}

// Clones cannot be templates.
#define PO_VARIATION_LOOPS(kDistance, T)                                                                          \
  PO_CPU_CLONES double sum_differences(std::integral_constant<Distance, kDistance>, const T* x, int64_t right,    \
                                       int64_t step, int64_t below, int64_t length) {                             \
    return differences_sum<kDistance>(x, right, step, below, length);                                             \
  }                                                                                                               \
  PO_CPU_CLONES void gradient_row(std::integral_constant<Distance, kDistance>, const T* x, T* dx, int64_t length, \
                                  int64_t step, bool has_above, bool has_below, double factor) {                  \
    row_gradient<kDistance>(x, dx, length, step, has_above, has_below, factor);                                   \
  }
#define PO_VARIATION_LOOPS_OF(T)            \
  PO_VARIATION_LOOPS(Distance::kSquared, T) \
  PO_VARIATION_LOOPS(Distance::kL1, T)
PO_VARIATION_LOOPS_OF(float)
PO_VARIATION_LOOPS_OF(double)
PO_VARIATION_LOOPS_OF(Half)
PO_VARIATION_LOOPS_OF(BFloat16)

// Calls f(std::integral_constant<Distance, ...>) for the distance of a kind of variation.
template <class F>
void dispatch_kind(const std::string& kind, F&& f) {
  if (variation_distance(kind) == Distance::kL1) return f(std::integral_constant<Distance, Distance::kL1>{});
  f(std::integral_constant<Distance, Distance::kSquared>{});
}

// Calls f(sample, row) for every row of every sample, in parallel.
template <class F>
void for_each_row(int64_t batch, const Rows& rows, F&& f) {
  torch::stable::parallel_for(0, batch * rows.count(), ceil_div(kGrain, rows.length), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) f(task / rows.count(), task % rows.count());
  });
}

}  // namespace

Tensor total_variation_cpu(const Tensor x,  // (N, C, H, W)
                           const std::string kind) {
  check_map(x, "x");
  const Layout layout = layout_of(x);
  const Tensor dense = dense_samples(x, layout);
  const Rows rows = rows_of(dense, layout);
  const int64_t batch = dense.size(0);
  std::vector<double> row_sums(batch * rows.count()), values(batch, 0.0);
  if (x.numel() > 0) {
    dispatch_dtype(dense, "x", [&](auto element) {
      using T = decltype(element);
      const T* data = static_cast<const T*>(dense.data_ptr());
      dispatch_kind(kind, [&](auto distance) {
        for_each_row(batch, rows, [&](int64_t n, int64_t row) {
          const T* line = data + n * dense.stride(0) + row * rows.length;
          double sum = 0.0;
          for (int64_t first = 0; first < rows.length; first += kBlock) {
            const int64_t count = std::min(kBlock, rows.length - first);
            const int64_t right = std::clamp<int64_t>(rows.length - rows.step - first, 0, count);
            sum +=
                sum_differences(distance, line + first, right, rows.step, rows.has_below(row) ? count : 0, rows.length);
          }
          row_sums[n * rows.count() + row] = sum;
        });
      });
    });
  }
  for (int64_t n = 0; n < batch; ++n) values[n] = ordered_sum(row_sums, n * rows.count(), rows.count());
  return from_doubles(x, values, {batch});  // (N)
}

Tensor total_variation_backward_cpu(const Tensor grad,  // (N)
                                    const Tensor x,     // (N, C, H, W)
                                    const std::string kind) {
  check_map(x, "x");
  const Layout layout = layout_of(x);
  check_upstream(grad, x);
  const std::vector<double> upstream = to_doubles(grad);
  return filled_like(x, layout, [&](Tensor& out) {
    if (x.numel() == 0) return;
    const Tensor dense = dense_samples(x, layout);
    const Rows rows = rows_of(dense, layout);
    dispatch_dtype(dense, "x", [&](auto element) {
      using T = decltype(element);
      const T* data = static_cast<const T*>(dense.data_ptr());
      T* out_data = static_cast<T*>(out.data_ptr());
      dispatch_kind(kind, [&](auto distance) {
        for_each_row(dense.size(0), rows, [&](int64_t n, int64_t row) {
          gradient_row(distance, data + n * dense.stride(0) + row * rows.length,
                       out_data + (n * rows.count() + row) * rows.length, rows.length, rows.step, rows.has_above(row),
                       rows.has_below(row), upstream[n]);
        });
      });
    });
  });
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("total_variation", TORCH_BOX(&total_variation_cpu));
  m.impl("total_variation_backward", TORCH_BOX(&total_variation_backward_cpu));
}

}  // namespace perceptual_ops
