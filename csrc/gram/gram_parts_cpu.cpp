#include "gram_parts_cpu.h"

namespace perceptual_ops {

PO_CPU_CLONES void finish_band(const float* partials, int64_t count, int64_t channels, RowBand band, float* gram) {
  const int64_t area = channels * channels;
  for_each_lower_patch(channels, band, [&](int64_t i, int64_t j, int64_t height, int64_t width) {
    for (int64_t r = i; r < i + height; ++r) {
      for (int64_t part = 0; part < count; ++part) {
        for (int64_t c = j; c < j + width; ++c) gram[r * channels + c] += partials[part * area + r * channels + c];
      }
    }
    for (int64_t c = j; c < j + width; ++c) {
      for (int64_t r = i; r < i + height; ++r) gram[c * channels + r] = gram[r * channels + c];
    }
  });
}

}  // namespace perceptual_ops
