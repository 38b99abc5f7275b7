// normalize_images and its backward on the CPU: one channel of a row of pixels at a time, between images of any strides
// and a channels_last map. The few channels of a row stay in L1.
#include "arguments.h"
#include "channels_cpu.h"

namespace perceptual_ops {
namespace {

// fp64 where either side is.
template <class A, class B>
using Wider = std::conditional_t<std::is_same_v<A, double> || std::is_same_v<B, double>, double, float>;

// Numbers `step` elements apart.
template <class T>
struct Line {
  T* data;
  int64_t step;

  T& operator[](int64_t i) const { return data[i * step]; }
};

// The row h of channel c of sample n.
template <class T>
Line<T> line_of(const Tensor& x,  // (N, C, H, W)
                int64_t n, int64_t c, int64_t h) {
  return {static_cast<T*>(x.data_ptr()) + n * x.stride(0) + c * x.stride(1) + h * x.stride(2), x.stride(3)};
}

template <class I, class O>
PO_INLINE void affine_walk(Line<const I> image, Wider<I, O> scale, Wider<I, O> shift, Line<O> out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    store_rounded(out[i], static_cast<Accumulator<O>>(static_cast<Wider<I, O>>(image[i]) * scale + shift));
  }
}

// grad is in T, `add` in A.
template <class T, class A>
PO_INLINE void gradient_walk(Line<const T> grad, Accumulator<T> slope, Line<const A> add, Line<Accumulator<T>> out,
                             int64_t count) {
  using Acc = Accumulator<T>;
  for (int64_t i = 0; i < count; ++i) out[i] = slope * static_cast<Acc>(grad[i]) + static_cast<Acc>(add[i]);
}

// Clones cannot be templates.
#define PO_NORMALIZE_LINES(T, U)                                                                         \
  PO_CPU_CLONES void affine_line(Line<const T> image, Wider<T, U> scale, Wider<T, U> shift, Line<U> out, \
                                 int64_t count) {                                                        \
    affine_walk(image, scale, shift, out, count);                                                        \
  }                                                                                                      \
  PO_CPU_CLONES void gradient_line(Line<const T> grad, Accumulator<T> slope, Line<const U> add,          \
                                   Line<Accumulator<T>> out, int64_t count) {                            \
    gradient_walk(grad, slope, add, out, count);                                                         \
  }
#define PO_NORMALIZE_LINES_OF(T) \
  PO_NORMALIZE_LINES(T, float)   \
  PO_NORMALIZE_LINES(T, double)  \
  PO_NORMALIZE_LINES(T, Half)    \
  PO_NORMALIZE_LINES(T, BFloat16)
PO_NORMALIZE_LINES_OF(float)
PO_NORMALIZE_LINES_OF(double)
PO_NORMALIZE_LINES_OF(Half)
PO_NORMALIZE_LINES_OF(BFloat16)

// Calls f(n, c, h) for every row of every channel, those of a row of pixels one after the other.
template <class F>
void for_each_line(const Tensor& x,  // (N, C, H, W)
                   F&& f) {
  const int64_t channels = x.size(1), height = x.size(2);
  torch::stable::parallel_for(0, x.size(0) * height, ceil_div(kGrain, channels * x.size(3)),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t row = begin; row < end; ++row) {
                                  for (int64_t c = 0; c < channels; ++c) f(row / height, c, row % height);
                                }
                              });
}

}  // namespace

Tensor normalize_images_cpu(const Tensor images,  // (N, C, H, W)
                            const Tensor scale,   // (C)
                            const Tensor shift,   // (C)
                            ScalarType dtype) {
  check_map(images, "images");
  check_scale(scale, "scale", images);
  check_scale(shift, "shift", images);
  const int64_t channels = images.size(1), width = images.size(3);
  const Tensor out = empty_channels_last(images, images.sizes().vec(), dtype);
  dispatch_dtype(images, "images", [&](auto image) {
    dispatch_dtype(out, "dtype", [&](auto element) {
      using I = decltype(image);
      using O = decltype(element);
      const auto scales = repeated<Wider<I, O>>(scale, channels, channels);
      const auto shifts = repeated<Wider<I, O>>(shift, channels, channels);
      for_each_line(images, [&](int64_t n, int64_t c, int64_t h) {
        affine_line(line_of<const I>(images, n, c, h), scales[c], shifts[c], line_of<O>(out, n, c, h), width);
      });
    });
  });
  return out;  // (N, C, H, W)
}

Tensor normalize_images_backward_cpu(const Tensor grad,                   // (N, C, H, W)
                                     const Tensor images,                 // (N, C, H, W)
                                     const Tensor scale,                  // (C)
                                     const std::optional<Tensor> factor,  // (N)
                                     const std::optional<Tensor> add) {   // (N, C, H, W)
  check_map(images, "images");
  check_shape(grad, "grad", images);
  check_scale(scale, "scale", images);
  check_factor(factor, grad);
  if (add) check_shape(*add, "add", images);
  const Tensor out = empty_like_in(images, accumulator_type(grad));
  const int64_t channels = images.size(1), width = images.size(3);
  const std::vector<double> factors = factor ? to_doubles(*factor) : std::vector<double>(images.size(0), 1.0);
  const auto scales = repeated<double>(scale, channels, channels);
  dispatch_dtype(grad, "grad", [&](auto element) {
    dispatch_dtype(add.value_or(grad), "add", [&](auto term) {
      using T = decltype(element);
      using A = decltype(term);
      const A nothing = A(0);
      for_each_line(images, [&](int64_t n, int64_t c, int64_t h) {
        gradient_line(line_of<const T>(grad, n, c, h), static_cast<Accumulator<T>>(factors[n] * scales[c]),
                      add ? line_of<const A>(*add, n, c, h) : Line<const A>{&nothing, 0},
                      line_of<Accumulator<T>>(out, n, c, h), width);
      });
    });
  });
  return out;  // (N, C, H, W), fp32, or fp64 for fp64
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("normalize_images", TORCH_BOX(&normalize_images_cpu));
  m.impl("normalize_images_backward", TORCH_BOX(&normalize_images_backward_cpu));
}

}  // namespace perceptual_ops
