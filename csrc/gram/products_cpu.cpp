// Products go through aten's bmm, which runs near the processor's peak for these shapes. fp16 and bf16 maps are widened
// to fp32 a block of pixels at a time: sums are fp32, and no fp32 copy of the whole map is made. Where there is AMX,
// bf16 blocks are multiplied as they are.
#include "products_cpu.h"

#include "amx_cpu.h"

namespace perceptual_ops {
namespace {

// Elements of a widened block: its 4 MB of fp32 stay in the cache until the product has read them.
constexpr int64_t kWidenedElements = 1 << 20;
constexpr int64_t kLeastPixels = 16;
constexpr int64_t kMostPixels = 4096;  // an fp32 sum over more positive products drifts

template <class From, class To>
PO_INLINE void convert_row(const From* from, To* to, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) store_rounded(to[i], static_cast<Accumulator<To>>(from[i]));
}
PO_CPU_CLONES void convert(const Half* from, float* to, int64_t count) { convert_row(from, to, count); }
PO_CPU_CLONES void convert(const BFloat16* from, float* to, int64_t count) { convert_row(from, to, count); }
PO_CPU_CLONES void convert(const float* from, Half* to, int64_t count) { convert_row(from, to, count); }
PO_CPU_CLONES void convert(const float* from, BFloat16* to, int64_t count) { convert_row(from, to, count); }
PO_CPU_CLONES void accumulate(const float* from, float* to, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

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

int64_t pixels_per_block(const FeatureMap& map) {
  return std::clamp(kWidenedElements / (map.batch * map.channels), kLeastPixels, kMostPixels);
}

// Elements of the largest block.
int64_t block_elements(const FeatureMap& map) { return map.batch * map.channels * pixels_per_block(map); }

// The pixels from `first` on as a dense block of fp32.
template <class T>
void widen(const T* x, const FeatureMap& map, int64_t first, const FeatureMap& block, float* widened) {
  const Layout layout = map.layout();
  for_each_run(block, layout, [&](int64_t n, int64_t run, int64_t length) {
    convert(x + run_start(map, layout, n, run, first), widened + run_start(block, layout, n, run), length);
  });
}

// f(first, block) for every block of pixels, in order.
template <class F>
void for_each_pixel_block(const FeatureMap& map, F&& f) {
  const int64_t step = pixels_per_block(map);
  for (int64_t first = 0; first < map.pixels; first += step) {
    f(first, dense_block(map, map.batch, std::min(step, map.pixels - first)));
  }
}

template <class T>
void widened_gram(const T* x, const FeatureMap& map, const Tensor& gram) {
  std::vector<float> widened(block_elements(map));
  const Tensor partial = torch::stable::empty_like(gram);
  for_each_pixel_block(map, [&](int64_t first, const FeatureMap& block) {
    widen(x, map, first, block, widened.data());
    batched_product(channel_rows(widened.data(), block), pixel_rows(widened.data(), block),
                    first == 0 ? gram : partial);
    if (first > 0) {
      accumulate(static_cast<const float*>(partial.data_ptr()), static_cast<float*>(gram.data_ptr()), gram.numel());
    }
  });
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

template <class T>
void widened_gradient(const Tensor& symmetric, const T* x, const FeatureMap& map, T* out, const FeatureMap& out_map) {
  const Layout layout = map.layout();
  std::vector<float> widened(block_elements(map)), sum(widened.size());
  for_each_pixel_block(map, [&](int64_t first, const FeatureMap& block) {
    widen(x, map, first, block, widened.data());
    symmetric_product(symmetric, widened.data(), block, sum.data(), block);
    for_each_run(block, layout, [&](int64_t n, int64_t run, int64_t length) {
      convert(&sum[run_start(block, layout, n, run)], out + run_start(out_map, layout, n, run, first), length);
    });
  });
}

// The products of a dtype whose sums are wider than itself: on AMX where it serves, else in fp32.
template <class T>
constexpr bool kMayUseAmx = kAmxBuilt && std::is_same_v<T, BFloat16>;

template <class T>
void wide_gram(const T* x, const FeatureMap& map, const Tensor& gram) {
  if constexpr (kMayUseAmx<T>) {
    if (amx_serves()) return amx_gram(x, map, static_cast<float*>(gram.data_ptr()));
  }
  widened_gram(x, map, gram);
}

template <class T>
void wide_gradient(const Tensor& symmetric, const T* x, const FeatureMap& map, T* out, const FeatureMap& out_map) {
  if constexpr (kMayUseAmx<T>) {
    const float* matrix = static_cast<const float*>(symmetric.data_ptr());
    if (amx_serves()) return amx_gradient(matrix, x, map, out, out_map);
  }
  widened_gradient(symmetric, x, map, out, out_map);
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
    if constexpr (std::is_same_v<T, Accumulator<T>>) {
      batched_product(channel_rows(data, map), pixel_rows(data, map), gram);
    } else {
      wide_gram<T>(data, map, gram);
    }
  });
  return gram;
}

Tensor gram_gradient(const Tensor& symmetric, const Tensor& features) {
  const Tensor x = served(features);
  const FeatureMap map = *feature_map(x);
  return filled_like(features, map.layout(), [&](Tensor& out) {
    if (map.batch * map.sample_size() == 0) return;
    const FeatureMap out_map = *feature_map(out);
    dispatch_dtype(x, "features", [&](auto element) {
      using T = decltype(element);
      T* x_data = static_cast<T*>(x.data_ptr());
      T* out_data = static_cast<T*>(out.data_ptr());
      if constexpr (std::is_same_v<T, Accumulator<T>>) {
        symmetric_product(symmetric, x_data, map, out_data, out_map);
      } else {
        wide_gradient<T>(symmetric, x_data, map, out_data, out_map);
      }
    });
  });
}

}  // namespace perceptual_ops
