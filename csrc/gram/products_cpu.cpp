// fp64 products and the gradient in fp32 go through aten's bmm, which runs near the processor's peak for these shapes.
// All others are the library's own: sums are fp32, no fp32 copy of the map is made, and of a Gram only what is on and
// below its diagonal is multiplied. bf16 takes AMX where there is AMX.
#include "products_cpu.h"

#include "amx_cpu.h"
#include "fp32_blocks_cpu.h"

namespace perceptual_ops {
namespace {

// X (N, C, P) of a map.
template <class T>
Tensor channel_rows(T* data, const FeatureMap& map) {
  return matrices(data, {map.batch, map.channels, map.pixels}, {map.stride_n, map.stride_c, map.stride_p});
}
// X^T (N, P, C) of a map.
template <class T>
Tensor pixel_rows(T* data, const FeatureMap& map) {
  return matrices(data, {map.batch, map.pixels, map.channels}, {map.stride_n, map.stride_p, map.stride_c});
}

// out = S X in the layout of the map: S X on rows of pixels, X^T S on rows of channels.
template <class T>
void symmetric_product(const Tensor& symmetric, T* x, const FeatureMap& x_map, T* out, const FeatureMap& out_map) {
  if (x_map.layout() == Layout::kNCHW) {
    batched_product(symmetric, channel_rows(x, x_map), channel_rows(out, out_map));
  } else {
    batched_product(pixel_rows(x, x_map), symmetric, pixel_rows(out, out_map));
  }
}

#define PO_ADD_RUN(T)                                                         \
  PO_CPU_CLONES void add_run(const T* from, T* to, int64_t count) {           \
    _Pragma("omp simd") for (int64_t i = 0; i < count; ++i) to[i] += from[i]; \
  }
PO_ADD_RUN(float)
PO_ADD_RUN(double)

// out += other, both in one layout.
template <class T>
void add_map(const T* other, const FeatureMap& other_map, T* out, const FeatureMap& out_map) {
  const Layout layout = out_map.layout();
  for_each_run(out_map, layout, [&](int64_t n, int64_t run, int64_t length) {
    add_run(other + run_start(other_map, layout, n, run), out + run_start(out_map, layout, n, run), length);
  });
}

// The library's own products: of bf16 on AMX where it serves, else in fp32.
template <class T>
constexpr bool kMayUseAmx = kAmxBuilt && std::is_same_v<T, BFloat16>;

template <class T>
void own_gram(const T* x, const FeatureMap& map, const Tensor& gram) {
  if constexpr (kMayUseAmx<T>) {
    if (amx_serves()) return amx_gram(x, map, static_cast<float*>(gram.data_ptr()));
  }
  block_gram(x, map, static_cast<float*>(gram.data_ptr()));
}

template <class T>
void own_gradient(const Tensor& symmetric, const T* x, const FeatureMap& map, const T* other,
                  const FeatureMap& other_map, T* out, const FeatureMap& out_map) {
  const float* matrix = static_cast<const float*>(symmetric.data_ptr());
  if constexpr (kMayUseAmx<T>) {
    if (amx_serves()) return amx_gradient(matrix, x, map, other, other_map, out, out_map);
  }
  block_gradient(matrix, x, map, other, other_map, out, out_map);
}

}  // namespace

Tensor gram_products(const Tensor& features) {
  const Tensor x = served(features);
  const FeatureMap map = *feature_map(x);
  Tensor gram = torch::stable::new_empty(x, {{map.batch, map.channels, map.channels}}, accumulator_type(x));
  if (map.batch * map.sample_size() == 0) return torch::stable::zero_(gram);
  dispatch_dtype(x, "features", [&](auto element) {
    using T = decltype(element);
    T* data = static_cast<T*>(x.data_ptr());
    if constexpr (std::is_same_v<T, double>) {
      batched_product(channel_rows(data, map), pixel_rows(data, map), gram);
    } else {
      own_gram<T>(data, map, gram);
    }
  });
  return gram;
}

Tensor gram_gradient(const Tensor& symmetric, const Tensor& features, const std::optional<Tensor>& other) {
  const Tensor x = served(features);
  const FeatureMap map = *feature_map(x);
  const Tensor added = other ? served_as(*other, map.layout()) : x;
  const FeatureMap added_map = *feature_map(added);
  return filled_like(features, map.layout(), [&](Tensor& out) {
    if (map.batch * map.sample_size() == 0) return;
    const FeatureMap out_map = *feature_map(out);
    dispatch_dtype(x, "features", [&](auto element) {
      using T = decltype(element);
      T* x_data = static_cast<T*>(x.data_ptr());
      T* out_data = static_cast<T*>(out.data_ptr());
      const T* added_data = other ? static_cast<const T*>(added.data_ptr()) : nullptr;
      if constexpr (std::is_same_v<T, Accumulator<T>>) {
        symmetric_product(symmetric, x_data, map, out_data, out_map);
        if (other) add_map(added_data, added_map, out_data, out_map);
      } else {
        own_gradient<T>(symmetric, x_data, map, added_data, added_map, out_data, out_map);
      }
    });
  });
}

}  // namespace perceptual_ops
