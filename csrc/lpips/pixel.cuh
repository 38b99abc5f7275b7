// LPIPS of one pixel, channel by channel: shared by the kernels of NHWC and NCHW maps (lanes.cuh, tiles.cuh).
//
// With sx = sqrt(sum x^2), nx = sx + eps or sqrt(sum x^2 + eps), u = x / nx, v = y / ny, e = u - v: d = sum of w e^2,
// d d/dx_c = 2 / nx * (w_c e_c - r_c T), T = sum of w e u, where r = x / sx, or x / nx if eps is inside, and
// d d/dy_c = -2 / ny * (w_c e_c - q_c S), S = sum of w e v. 1 / nx and 1 / sx are separate factors, since their product
// may overflow.
#pragma once

#include "../common/cuda_element.cuh"
#include "../common/vec.cuh"

namespace perceptual_ops {

constexpr int kLpipsThreads = 256;

// nx = sqrt(sum x^2 + inside) + outside: one of them is eps, the other 0.
template <class Acc>
struct Norm {
  Acc inside, outside;
};

// Reciprocals of a pixel's length.
template <class Acc>
struct Length {
  Acc inverse;  // 1 / nx
  Acc radial;   // r = radial * x

  // A pixel whose features are all 0 has, by definition, no direction and no gradient. NaN is not such a pixel.
  static __device__ __forceinline__ Length of(Acc squares, const Norm<Acc>& norm) {
    const Acc root = std::sqrt(squares + norm.inside);
    if (root == Acc(0)) return {Acc(0), Acc(0)};
    return {Acc(1) / (root + norm.outside), Acc(1) / root};
  }
};

// A product that is rounded before the subtraction: contracted to an fma, equal pixels would differ by a rounding
// error.
__device__ __forceinline__ float rounded_product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double rounded_product(double a, double b) { return __dmul_rn(a, b); }

// One channel of a pixel: u, v and w e.
template <class Acc>
struct Channel {
  Acc u, v, error, pull;

  __device__ __forceinline__ Channel(Acc x, Acc y, Acc weight, const Length<Acc>& of_x, const Length<Acc>& of_y)
      : u(rounded_product(x, of_x.inverse)), v(rounded_product(y, of_y.inverse)), error(u - v), pull(weight * error) {}
};

// The sums over a pixel's channels: of its distance, and along its directions, T and S.
template <class Acc>
struct Along {
  Acc distance, x, y;

  template <int kGradients>
  __device__ __forceinline__ void add(const Channel<Acc>& channel) {
    distance += channel.pull * channel.error;
    if constexpr (kGradients > 0) x += channel.pull * channel.u;
    if constexpr (kGradients > 1) y += channel.pull * channel.v;
  }
};

// The gradients with respect to one channel, in place of x and, with kGradients of 2, of y. `upstream`: twice that of
// the pixel.
template <int kGradients, class T, class Acc = DeviceAccumulator<T>>
__device__ __forceinline__ void slopes_in_place(T& x, T& y, Acc weight, const Length<Acc>& of_x,
                                                const Length<Acc>& of_y, const Along<Acc>& along, Acc upstream) {
  const Channel<Acc> channel(widen(x), widen(y), weight, of_x, of_y);
  const Acc by_x = upstream * of_x.inverse * (channel.pull - of_x.radial * widen(x) * along.x);
  if constexpr (kGradients > 1) {
    y = narrow<T>(upstream * of_y.inverse * (of_y.radial * widen(y) * along.y - channel.pull));
  }
  x = narrow<T>(by_x);
}

// A run of pixels of one sample of a layer. Pointers to its first pixel; strides in elements.
template <class T>
struct PixelRun {
  using Acc = DeviceAccumulator<T>;

  const T *x, *y;       // (C, count)
  T *dx, *dy;           // (C, count), or null
  const Acc* weights;   // (C)
  Acc* map;             // (count), or null
  const Acc* map_grad;  // (count), or null
  Acc grad;             // of the pixels where map_grad is null
  Norm<Acc> norm;
  int count;
  int channels;
  int64_t stride_c, stride_p;

  __device__ __forceinline__ Acc upstream(int pixel) const { return Acc(2) * (map_grad ? map_grad[pixel] : grad); }
};

}  // namespace perceptual_ops
