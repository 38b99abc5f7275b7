// total_variation on the CPU: differences to the right and to the row below, summed row by row in a fixed order; value,
// gradient or both in one pass.
#include <cmath>
#include <string>

#include "../common/arguments.h"
#include "../common/cpu.h"
#include "../common/layers.h"
#include "../common/wanted.h"

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

// Elements of a row that are processed together: what is read and written five times stays in L1.
constexpr int64_t kPiece = 1024;

struct Piece {
  int64_t count;
  int64_t left;    // elements without a neighbour to the left, the first ones
  int64_t right;   // elements with a neighbour to the right
  int64_t step;    // to the right
  int64_t length;  // to the row below
  bool has_above, has_below;
};

template <Distance kDistance, class T>
PO_INLINE Point<Accumulator<T>> difference(T to, T from) {
  using Acc = Accumulator<T>;
  return distance_at<kDistance>(static_cast<Acc>(to) - static_cast<Acc>(from), Acc(0));
}

// Returns the sum of d(to[i] - from[i]); adds `sign` (1 or -1) * d' to slopes[i]; each if wanted.
template <Distance kDistance, Wanted kWanted, class T>
PO_INLINE Accumulator<T> differences(const T* to, const T* from, int64_t count, Accumulator<T> sign,
                                     Accumulator<T>* slopes) {
  Accumulator<T> sum = 0;
  if constexpr (kWanted == Wanted::kGradient) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) slopes[i] += sign * difference<kDistance>(to[i], from[i]).slope;
  } else {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) {
      const auto point = difference<kDistance>(to[i], from[i]);
      sum += point.value;
      if constexpr (kWanted == Wanted::kBoth) slopes[i] += sign * point.slope;
    }
  }
  return sum;
}

// The sum of the differences that begin in a piece, and the gradient with respect to its elements, where wanted: an
// element is the left end of one difference, the right end of another, and so above and below.
template <Distance kDistance, Wanted kWanted, class T>
PO_INLINE double piece_walk(const T* x, T* dx, const Piece& piece, double factor) {
  using Acc = Accumulator<T>;
  constexpr bool kGradient = kWantsGradient<kWanted>;
  Acc slopes[kGradient ? kPiece : 1];
  if constexpr (kGradient) std::fill_n(slopes, piece.count, Acc(0));
  Acc sum = differences<kDistance, kWanted>(x + piece.step, x, piece.right, Acc(-1), slopes);
  if (piece.has_below) {
    sum += differences<kDistance, kWanted>(x + piece.length, x, piece.count, Acc(-1), slopes);
  }
  if constexpr (kGradient) {
    const T* second = x + piece.left;
    differences<kDistance, Wanted::kGradient>(second, second - piece.step, piece.count - piece.left, Acc(1),
                                              slopes + piece.left);
    if (piece.has_above) differences<kDistance, Wanted::kGradient>(x, x - piece.length, piece.count, Acc(1), slopes);
    const Acc f = static_cast<Acc>(factor);
    for (int64_t i = 0; i < piece.count; ++i) dx[i] = static_cast<T>(f * slopes[i]);
  }
  return static_cast<double>(sum);
}

// Clones cannot be templates.
#define PO_VARIATION_WALK(kDistance, kWanted, T)                                                                  \
  PO_CPU_CLONES double walk_piece(std::integral_constant<Distance, kDistance>,                                    \
                                  std::integral_constant<Wanted, kWanted>, const T* x, T* dx, const Piece& piece, \
                                  double factor) {                                                                \
    return piece_walk<kDistance, kWanted>(x, dx, piece, factor);                                                  \
  }
#define PO_VARIATION_WALKS(kDistance, T)             \
  PO_VARIATION_WALK(kDistance, Wanted::kValue, T)    \
  PO_VARIATION_WALK(kDistance, Wanted::kGradient, T) \
  PO_VARIATION_WALK(kDistance, Wanted::kBoth, T)
#define PO_VARIATION_WALKS_OF(T)            \
  PO_VARIATION_WALKS(Distance::kSquared, T) \
  PO_VARIATION_WALKS(Distance::kL1, T)
PO_VARIATION_WALKS_OF(float)
PO_VARIATION_WALKS_OF(double)
PO_VARIATION_WALKS_OF(Half)
PO_VARIATION_WALKS_OF(BFloat16)

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

// The sum of each image's differences, and the gradient, densely, into `gradient`, where they are wanted.
std::vector<double> run(const Tensor& x,  // (N, C, H, W)
                        Layout layout, const std::string& kind, const std::vector<double>& upstream, Wanted wanted,
                        Tensor* gradient) {
  const int64_t batch = x.size(0);
  if (batch == 0) return {};
  const Tensor dense = dense_samples(x, layout);
  const Rows rows = rows_of(dense, layout);
  std::vector<double> row_sums(batch * rows.count()), values(batch);
  dispatch_dtype(dense, "x", [&](auto element) {
    using T = decltype(element);
    const T* data = static_cast<const T*>(dense.data_ptr());
    T* dx = gradient ? static_cast<T*>(gradient->data_ptr()) : nullptr;
    dispatch_kind(kind, [&](auto distance) {
      dispatch_wanted(wanted, [&](auto pass) {
        for_each_row(batch, rows, [&](int64_t n, int64_t row) {
          const T* line = data + n * dense.stride(0) + row * rows.length;
          const int64_t place = (n * rows.count() + row) * rows.length;
          double sum = 0.0;
          for (int64_t first = 0; first < rows.length; first += kPiece) {
            const int64_t count = std::min(kPiece, rows.length - first);
            const Piece piece{count,
                              std::clamp<int64_t>(rows.step - first, 0, count),
                              std::clamp<int64_t>(rows.length - rows.step - first, 0, count),
                              rows.step,
                              rows.length,
                              rows.has_above(row),
                              rows.has_below(row)};
            sum += walk_piece(distance, pass, line + first, dx ? dx + place + first : nullptr, piece, upstream[n]);
          }
          row_sums[n * rows.count() + row] = sum;
        });
      });
    });
  });
  for (int64_t n = 0; n < batch; ++n) values[n] = ordered_sum(row_sums, n * rows.count(), rows.count());
  return values;
}

std::vector<double> ones(int64_t count) { return std::vector<double>(count, 1.0); }

}  // namespace

Tensor total_variation_cpu(const Tensor x,  // (N, C, H, W)
                           const Name kind) {
  check_map(x, "x");
  const int64_t batch = x.size(0);
  return from_doubles(x, run(x, layout_of(x), kind, ones(batch), Wanted::kValue, nullptr), {batch});  // (N)
}

Tensor total_variation_backward_cpu(const Tensor grad,  // (N)
                                    const Tensor x,     // (N, C, H, W)
                                    const Name kind) {
  check_map(x, "x");
  check_upstream(grad, x);
  const Layout layout = layout_of(x);
  return filled_like(x, layout, [&](Tensor& out) { run(x, layout, kind, to_doubles(grad), Wanted::kGradient, &out); });
}

std::tuple<Tensor, Tensor> total_variation_with_gradient_cpu(const Tensor x,  // (N, C, H, W)
                                                             const Name kind,
                                                             const std::optional<Tensor> grad) {  // (N)
  check_map(x, "x");
  if (grad) check_upstream(*grad, x);
  const Layout layout = layout_of(x);
  const std::vector<double> upstream = grad ? to_doubles(*grad) : ones(x.size(0));
  std::vector<double> values;
  const Tensor gradient =
      filled_like(x, layout, [&](Tensor& out) { values = run(x, layout, kind, upstream, Wanted::kBoth, &out); });
  return {from_doubles(x, values, {x.size(0)}), gradient};
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("total_variation", TORCH_BOX(&total_variation_cpu));
  m.impl("total_variation_backward", TORCH_BOX(&total_variation_backward_cpu));
  m.impl("total_variation_with_gradient", TORCH_BOX(&total_variation_with_gradient_cpu));
}

}  // namespace perceptual_ops
