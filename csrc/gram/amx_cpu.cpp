// A thread takes some pixels of one sample, packs them, multiplies and rounds: one parallel loop for a gradient, two
// for a Gram.
#include "amx_cpu.h"

#ifdef PO_AMX

#include <sys/syscall.h>
#include <unistd.h>

#include "amx_tiles_cpu.h"
#include "gram_parts_cpu.h"

namespace perceptual_ops {
namespace {

static_assert(kPatch == kGramPatch, "bands of rows begin at a patch");

// Elements of a map that a thread packs at once: a quarter of an L2 cache of 2 MB, with the products beside them.
constexpr int64_t kPackedElements = 1 << 16;
constexpr int64_t kMaxPixels = 1024;  // in one sum of a tile: an fp32 sum over more positive products drifts

// Pixels that a thread takes at once.
int64_t pixels_at_once(const FeatureMap& map) {
  return std::clamp(kPackedElements / map.channels / kPatch * kPatch, kPatch, kMaxPixels);
}

// Some rows of the Gram of some pixels of one sample, on and below the diagonal.
PO_AMX_TARGET void partial_gram(const BFloat16* x, const FeatureMap& map, int64_t pixels, RowBand band, float* gram) {
  const int64_t channels = map.channels, step = pixels_at_once(map);
  std::vector<AmxTile> rows(Tiling(channels, step).count()), columns(rows.size());
  alignas(64) float patch[kPatch * kPatch];
  for (int64_t first = 0; first < pixels; first += step) {
    const int64_t count = std::min(step, pixels - first);
    const Tiling tiling(channels, count);
    if (map.layout() == Layout::kNCHW) {
      pack_along(x + first, map.stride_c, channels, count, rows.data());
      for (int64_t tile = 0; tile < tiling.count(); ++tile) transpose(rows[tile], columns[tile]);
    } else {
      pack_across(x + first * map.stride_p, map.stride_p, count, channels, columns.data());
      for (int64_t tile = 0; tile < tiling.count(); ++tile) transpose(columns[tile], rows[tile]);
    }
    for_each_lower_patch(channels, band, [&](int64_t i, int64_t j, int64_t height, int64_t width) PO_AMX_TARGET {
      clear_sums();
      multiply(&rows[i / kEdge * tiling.steps], &columns[j / kEdge * tiling.steps], tiling.steps);
      store_sums(patch, kPatch);
      for (int64_t r = 0; r < height; ++r) {
        float* to = gram + (i + r) * channels + j;
        for (int64_t c = 0; c < width; ++c) to[c] = patch[r * kPatch + c] + (first == 0 ? 0.0f : to[c]);
      }
    });
  }
}

// The bf16 number nearest to each number, and the one nearest to what is left of it.
PO_CPU_CLONES void split(const float* from, BFloat16* nearest, BFloat16* rest, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    store_rounded(nearest[i], from[i]);
    store_rounded(rest[i], from[i] - static_cast<float>(nearest[i]));
  }
}

// S split so, packed as the operand that stands beside a layout's maps.
struct SplitMatrix {
  std::vector<AmxTile> high, low;

  SplitMatrix(const float* symmetric, int64_t batch, int64_t channels, Layout layout)
      : high(batch * Tiling(channels, channels).count()), low(high.size()) {
    const int64_t area = channels * channels, tiles = Tiling(channels, channels).count();
    const auto pack = layout == Layout::kNCHW ? &pack_along : &pack_across;
    torch::stable::parallel_for(0, batch, ceil_div(kGrain, area), [&](int64_t begin, int64_t end) {
      std::vector<BFloat16> nearest(area), rest(area);
      for (int64_t n = begin; n < end; ++n) {
        split(symmetric + n * area, nearest.data(), rest.data(), area);
        pack(nearest.data(), channels, channels, channels, &high[n * tiles]);
        pack(rest.data(), channels, channels, channels, &low[n * tiles]);
      }
    });
  }
};

// (A + A') B in NCHW and B (A + A') in NHWC, with A and A' the halves of a split matrix: rows x columns numbers.
PO_AMX_TARGET void split_product(const AmxTile* high, const AmxTile* low, const AmxTile* maps, bool nchw, int64_t steps,
                                 int64_t rows, int64_t columns, float* sum) {
  alignas(64) float patch[kPatch * kPatch];
  for (int64_t i = 0; i < rows; i += kPatch) {
    for (int64_t j = 0; j < columns; j += kPatch) {
      const int64_t row = i / kEdge * steps, column = j / kEdge * steps;
      clear_sums();
      for (const AmxTile* part : {high, low}) {
        multiply((nchw ? part : maps) + row, (nchw ? maps : part) + column, steps);
      }
      const int64_t height = std::min(kPatch, rows - i), width = std::min(kPatch, columns - j);
      float* to = sum + i * columns + j;
      if (height == kPatch && width == kPatch) {
        store_sums(to, columns);
        continue;
      }
      store_sums(patch, kPatch);
      for (int64_t r = 0; r < height; ++r) std::copy_n(patch + r * kPatch, width, to + r * columns);
    }
  }
}

PO_CPU_CLONES void add_row(const BFloat16* from, float* to, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += static_cast<float>(from[i]);
}

PO_AMX_TARGET void round_row(const float* from, BFloat16* to, int64_t count) {
  for (int64_t i = 0; i < count; i += kEdge) {
    const __mmask16 mask = static_cast<__mmask16>(first_bits(count - i));
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from + i));
    _mm256_mask_storeu_epi16(to + i, mask, rounded);
  }
}

}  // namespace

bool amx_serves() {
  static const bool serves = [] {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("avx512bf16") &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return serves;
}

void amx_gram(const BFloat16* x, const FeatureMap& map, float* gram) {
  gram_by_parts(x, map, pixels_at_once(map), gram,
                [&](const BFloat16* from, int64_t pixels, RowBand band, float* partial) {
                  const TileScope scope;
                  partial_gram(from, map, pixels, band, partial);
                });
}

void amx_gradient(const float* symmetric, const BFloat16* x, const FeatureMap& map, const BFloat16* other,
                  const FeatureMap& other_map, BFloat16* out, const FeatureMap& out_map) {
  const Layout layout = map.layout();
  const bool nchw = layout == Layout::kNCHW;
  const int64_t step = pixels_at_once(map), blocks = ceil_div(map.pixels, step);
  const int64_t steps = ceil_div(map.channels, kDepth), tiles = Tiling(map.channels, map.channels).count();
  const SplitMatrix matrix(symmetric, map.batch, map.channels, layout);
  torch::stable::parallel_for(
      0, map.batch * blocks, ceil_div(kGrain, map.channels * step), [&](int64_t begin, int64_t end) {
        const TileScope scope;
        std::vector<AmxTile> packed(Tiling(step, map.channels).count());
        std::vector<float> sum(step * map.channels);
        for (int64_t task = begin; task < end; ++task) {
          const int64_t n = task / blocks, first = task % blocks * step;
          const FeatureMap block = dense_block(map, 1, std::min(step, map.pixels - first));
          const BFloat16* from = x + n * map.stride_n + first * map.stride_p;
          const int64_t pitch = nchw ? map.stride_c : map.stride_p;
          const int64_t lines = nchw ? map.channels : block.pixels, length = nchw ? block.pixels : map.channels;
          (nchw ? pack_across : pack_along)(from, pitch, lines, length, packed.data());
          split_product(&matrix.high[n * tiles], &matrix.low[n * tiles], packed.data(), nchw, steps, lines, length,
                        sum.data());
          for (int64_t run = 0; run < lines; ++run) {
            float* row = &sum[run * length];
            if (other != nullptr) add_row(other + run_start(other_map, layout, n, run, first), row, length);
            round_row(row, out + run_start(out_map, layout, n, run, first), length);
          }
        }
      });
}

}  // namespace perceptual_ops

#endif
