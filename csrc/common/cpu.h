// What the CPU operators share: function multiversioning, fixed-order sums over blocks, products through aten.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "tensor_view.h"

// One function compiled for SSE2, AVX2 and AVX-512, chosen when the library is loaded. Other processors and
// compilers (the names of the levels came with gcc 12) vectorise for the baseline that they are told.
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define PO_CPU_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define PO_CPU_CLONES
#endif
// Bodies that are inlined into a clone, so that they are compiled for its instruction set.
#define PO_INLINE inline __attribute__((always_inline))

namespace perceptual_ops {

// Elements over which a vectorised fp32 sum runs before it is promoted to fp64: a function of nothing but the input's
// shape, so that these sums do not depend on the number of threads.
constexpr int64_t kBlock = 1024;
// Grain size of parallel loops, in elements, as in torch's own.
constexpr int64_t kGrain = 32768;

// Stores a number rounded to T. By its bits where T is a class: a loop that copies objects does not vectorise.
template <class T>
PO_INLINE void store_rounded(T& to, Accumulator<T> number) {
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>) {
    to.x = T(number).x;
  } else {
    to = number;
  }
}

// A run is what lies side by side in a block of pixels of a map: the pixels of one channel in NCHW, the channels of one
// pixel in NHWC. This is where run `run` of sample n begins in a map that holds the block from pixel `first` on.
inline int64_t run_start(const FeatureMap& map, Layout layout, int64_t n, int64_t run, int64_t first = 0) {
  return n * map.stride_n + first * map.stride_p + run * (layout == Layout::kNCHW ? map.stride_c : map.stride_p);
}

// Calls f(sample, run, length) for every run of a block, in parallel.
template <class F>
void for_each_run(const FeatureMap& block, Layout layout, F&& f) {
  const bool nchw = layout == Layout::kNCHW;
  const int64_t runs = nchw ? block.channels : block.pixels, length = nchw ? block.pixels : block.channels;
  torch::stable::parallel_for(0, block.batch * runs, ceil_div(kGrain, length), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) f(task / runs, task % runs, length);
  });
}

// Calls f(sample, first, count) for every block of kBlock elements of every dense sample, in parallel.
template <class F>
void for_each_block(int64_t batch, int64_t sample_size, F&& f) {
  const int64_t blocks = ceil_div(sample_size, kBlock);
  torch::stable::parallel_for(0, batch * blocks, kGrain / kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * kBlock;
      f(task / blocks, first, std::min(kBlock, sample_size - first));
    }
  });
}

// A dense block of a map's pixels, of some samples, in the map's layout.
inline FeatureMap dense_block(const FeatureMap& map, int64_t batch, int64_t pixels) {
  const bool nchw = map.layout() == Layout::kNCHW;
  return {batch, map.channels, pixels, map.channels * pixels, nchw ? pixels : 1, nchw ? 1 : map.channels};
}

// (batch, rows, columns) over memory that someone else owns; strides in elements.
template <class T>
Tensor matrices(T* data, std::array<int64_t, 3> sizes, std::array<int64_t, 3> strides) {
  constexpr auto type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  static_assert(std::is_same_v<T, double> || std::is_same_v<T, float>, "products run in fp32 or fp64");
  return torch::stable::from_blob(data, {sizes.data(), 3}, {strides.data(), 3},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), type);
}

// out (B, M, N) = a (B, M, K) b (B, K, N). The out= overload, because autocast would cast the other's inputs to bf16.
inline void batched_product(const Tensor& a, const Tensor& b, const Tensor& out) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(a), from(b), from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::bmm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // takes the reference that the dispatcher returned
}

// partial[first], ..., partial[first + count - 1] summed in that order.
inline double ordered_sum(const std::vector<double>& partial, int64_t first, int64_t count) {
  double sum = 0.0;
  for (int64_t i = first; i < first + count; ++i) sum += partial[i];
  return sum;
}

// The elements of an fp32 or fp64 vector (N).
inline std::vector<double> to_doubles(const Tensor& vector) {
  const Tensor dense = torch::stable::contiguous(vector);
  std::vector<double> numbers(dense.numel());
  if (dense.scalar_type() == ScalarType::Double) {
    std::copy_n(static_cast<const double*>(dense.data_ptr()), numbers.size(), numbers.begin());
  } else {
    check(dense.scalar_type() == ScalarType::Float, "grad: expected dtype float32 or float64");
    std::copy_n(static_cast<const float*>(dense.data_ptr()), numbers.size(), numbers.begin());
  }
  return numbers;
}

// weight * upstream[n] for every sample.
inline std::vector<double> weighted_upstream(double weight, std::vector<double> upstream) {
  for (double& number : upstream) number *= weight;
  return upstream;
}

// Numbers as a new tensor of the accumulation type of `like`.
inline Tensor from_doubles(const Tensor& like, const std::vector<double>& numbers, std::vector<int64_t> sizes) {
  Tensor out = torch::stable::new_empty(like, sizes, accumulator_type(like));
  if (out.scalar_type() == ScalarType::Double) {
    std::copy(numbers.begin(), numbers.end(), static_cast<double*>(out.data_ptr()));
  } else {
    std::transform(numbers.begin(), numbers.end(), static_cast<float*>(out.data_ptr()),
                   [](double number) { return static_cast<float>(number); });
  }
  return out;
}

// loss (N) = sum of weights[l] * values[l, n] over the layers in order, and the values themselves (L, N).
inline std::tuple<Tensor, Tensor> weighted_losses(const Tensor& like, const std::vector<double>& values,
                                                  const std::vector<double>& weights) {
  const int64_t layers = weights.size(), batch = like.size(0);
  std::vector<double> losses(batch, 0.0);
  for (int64_t l = 0; l < layers; ++l) {
    for (int64_t n = 0; n < batch; ++n) losses[n] += weights[l] * values[l * batch + n];
  }
  return {from_doubles(like, losses, {batch}), from_doubles(like, values, {layers, batch})};
}

}  // namespace perceptual_ops
