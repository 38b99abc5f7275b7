// The parts of a pooling that its two passes share on the CPU.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "../common/cpu.h"
#include "pooling.h"

namespace perceptual_ops {

// One number that the binomial filter [1, 2, 1] reads along an axis, or that its transpose does.
struct FilterTap {
  int64_t index;
  int weight;  // quarters
};
using Taps = std::vector<std::vector<FilterTap>>;  // of each number that is computed

// Which of `windows` maxima each output reads.
inline Taps filter_taps(const Pooling& pooling, int64_t windows) {
  Taps taps(pooling.outputs_of(windows));
  for (size_t out = 0; out < taps.size(); ++out) {
    for (int64_t i = 0; i < 3; ++i) {
      const int64_t place = std::abs(static_cast<int64_t>(out) * pooling.stride + i - Pooling::kBlurPadding);
      const int64_t reflected = place < windows ? place : 2 * (windows - 1) - place;
      taps[out].push_back({reflected, i == 1 ? 2 : 1});
    }
  }
  return taps;
}

// The filter's transpose: which outputs read each of `windows` maxima.
inline Taps transposed_taps(const Taps& taps, int64_t windows) {
  Taps transposed(windows);
  for (size_t out = 0; out < taps.size(); ++out) {
    for (const FilterTap& tap : taps[out]) transposed[tap.index].push_back({static_cast<int64_t>(out), tap.weight});
  }
  return transposed;
}

// Rows of maxima that are filtered together, where some beside them are computed twice. Even: codes of a band begin at
// a whole byte.
constexpr int64_t kBlurBand = 16;

// Memory whose numbers are all written before they are read.
template <class T>
std::unique_ptr<T[]> uninitialized(int64_t count) {
  return std::unique_ptr<T[]>(new T[count]);
}

// Calls f(sample, begin, end) for each band of rows of every sample, in parallel.
template <class F>
void for_each_band(int64_t batch, int64_t rows, int64_t band, int64_t row_size, F&& f) {
  const int64_t bands = ceil_div(rows, band);
  torch::stable::parallel_for(0, batch * bands, ceil_div(kGrain, band * row_size), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % bands * band;
      f(task / bands, first, std::min(rows, first + band));
    }
  });
}

}  // namespace perceptual_ops
