// Split-K of a Gram over threads: each sums some pixels of one sample, and a band of rows if there are few pixels. The
// partial Grams are reduced in order.
#pragma once

#include <cmath>

#include "../common/cpu.h"

namespace perceptual_ops {

constexpr int64_t kGramPatch = 32;  // rows and columns: 4 KB of fp32

// Rows of a Gram. The first is a patch's first.
struct RowBand {
  int64_t first, end;
};

// Calls f(i, j, rows, columns) for the patches of a symmetric matrix, on and below its diagonal, that begin in a band;
// rows and columns say how much of the patch lies inside.
template <class F>
void for_each_lower_patch(int64_t channels, RowBand band, F&& f) {
  for (int64_t i = band.first; i < band.end; i += kGramPatch) {
    for (int64_t j = 0; j <= i; j += kGramPatch) {
      f(i, j, std::min(kGramPatch, channels - i), std::min(kGramPatch, channels - j));
    }
  }
}

// One of the bands that take about as much of the triangle each.
inline RowBand triangle_band(int64_t band, int64_t bands, int64_t channels) {
  const auto start = [&](int64_t at) {
    const double row = channels * std::sqrt(static_cast<double>(at) / bands);
    return at == bands ? channels : std::lround(row / kGramPatch) * kGramPatch;
  };
  return {start(band), start(band + 1)};
}

// A band of a Gram += that of the partial Grams in order, on and below the diagonal, and the same above it.
void finish_band(const float* partials, int64_t count, int64_t channels, RowBand band, float* gram);

// Makes the Grams (N, C, C) of a map by partial(x, pixels, band, gram) for some pixels of one sample, a
// multiple of `step` but for the last: sums on and below the diagonal.
template <class T, class F>
void gram_by_parts(const T* x, const FeatureMap& map, int64_t step, float* gram, F&& partial) {
  // Parts depend on the shape alone, since they determine the order of sums; bands of rows do not affect it.
  constexpr int64_t kParts = 32;                 // of the batch
  constexpr int64_t kPartialElements = 1 << 21;  // of all partial Grams: 8 MB
  constexpr int64_t kMinPixels = 512;            // fewer do not pay for the reduction of a part
  constexpr int64_t kMinRows = 64;               // of a band, which packs what the others pack
  const int64_t batch = map.batch, channels = map.channels, area = channels * channels;
  const int64_t most = std::min(kParts / batch, 1 + kPartialElements / (batch * area));
  const int64_t parts = std::clamp<int64_t>(most, 1, ceil_div(map.pixels, kMinPixels));
  const int64_t pixels = ceil_div(ceil_div(map.pixels, parts), step) * step, used = ceil_div(map.pixels, pixels);
  const int64_t bands = std::clamp<int64_t>(ceil_div(torch::stable::get_num_threads(), batch * used), 1,
                                            std::max<int64_t>(channels / kMinRows, 1));
  std::vector<float> partials(batch * (used - 1) * area);
  torch::stable::parallel_for(
      0, batch * used * bands, ceil_div(kGrain, channels * pixels), [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          const int64_t part = task / bands % used, n = task / bands / used, first = part * pixels;
          partial(x + n * map.stride_n + first * map.stride_p, std::min(pixels, map.pixels - first),
                  triangle_band(task % bands, bands, channels),
                  part == 0 ? gram + n * area : &partials[(n * (used - 1) + part - 1) * area]);
        }
      });
  const int64_t patches = ceil_div(channels, kGramPatch), grain = ceil_div(kGrain, used * channels * kGramPatch);
  torch::stable::parallel_for(0, batch * patches, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / patches, row = task % patches * kGramPatch;
      finish_band(partials.data() + n * (used - 1) * area, used - 1, channels, {row, row + 1}, gram + n * area);
    }
  });
}

}  // namespace perceptual_ops
