// How threads share a Gram of the library's own products: each sums some pixels of one sample, and what they found is
// summed in order.
#pragma once

#include "../common/cpu.h"

namespace perceptual_ops {

// Calls f(i, j, rows, columns) for the patches, `edge` square, of a symmetric matrix on and below its diagonal; rows
// and columns say how much of the patch lies inside.
template <class F>
void for_each_lower_patch(int64_t channels, int64_t edge, F&& f) {
  for (int64_t i = 0; i < channels; i += edge) {
    for (int64_t j = 0; j <= i; j += edge) f(i, j, std::min(edge, channels - i), std::min(edge, channels - j));
  }
}

// gram += the partial Grams in order, on and below the diagonal, and the same above it.
void finish_gram(const float* partials, int64_t count, int64_t channels, float* gram);

// Makes the Grams (N, C, C) of a map by partial(x, pixels, gram) for some pixels of one sample, a multiple of `step`
// but for the last: sums on and below the diagonal.
template <class T, class F>
void gram_by_parts(const T* x, const FeatureMap& map, int64_t step, float* gram, F&& partial) {
  constexpr int64_t kParts = 32;         // of the batch: a function of the shape alone, as the order of sums must be
  constexpr int64_t kLeastPixels = 512;  // less is not worth the sum of a part
  const int64_t area = map.channels * map.channels;
  const int64_t parts = std::clamp<int64_t>(kParts / map.batch, 1, ceil_div(map.pixels, kLeastPixels));
  const int64_t pixels = ceil_div(ceil_div(map.pixels, parts), step) * step, used = ceil_div(map.pixels, pixels);
  std::vector<float> partials(map.batch * (used - 1) * area);
  torch::stable::parallel_for(
      0, map.batch * used, ceil_div(kGrain, map.channels * pixels), [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          const int64_t n = task / used, part = task % used, first = part * pixels;
          partial(x + n * map.stride_n + first * map.stride_p, std::min(pixels, map.pixels - first),
                  part == 0 ? gram + n * area : &partials[(n * (used - 1) + part - 1) * area]);
        }
      });
  torch::stable::parallel_for(0, map.batch, ceil_div(kGrain, used * area), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      finish_gram(partials.data() + n * (used - 1) * area, used - 1, map.channels, gram + n * area);
    }
  });
}

}  // namespace perceptual_ops
