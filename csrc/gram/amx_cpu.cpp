// A tile product takes 16 rows of A with 32 elements each, and 32 rows of B, woven in pairs, with 16 elements each.
// Maps are packed into such tiles from their lines, the rows that lie in memory: channels in NCHW, pixels in NHWC. A
// tile of 16 lines is an A as it is, a tile of 32 lines woven is a B, and transposing 4-byte pairs makes one of the
// other.
#include "amx_cpu.h"

#ifdef PO_AMX

// gcc 12 takes the operand that an intrinsic leaves undefined on purpose for a mistake (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#include <sys/syscall.h>
#include <unistd.h>

#define PO_AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,amx-tile,amx-bf16")))

namespace perceptual_ops {
namespace {

// One operand of a tile product, 1 KB: 16 rows of 32 elements.
struct alignas(64) AmxTile {
  BFloat16 element[16 * 32];
};

constexpr int64_t kEdge = 16;   // rows of a tile
constexpr int64_t kDepth = 32;  // elements that one tile product sums
constexpr int64_t kPatch = 32;  // rows and columns of a product that one task keeps in four tiles
// Elements of a map that a thread packs at once: a quarter of a second cache of 2 MB, with the products beside them.
constexpr int64_t kPackedElements = 1 << 16;
constexpr int64_t kMostPixels = 1024;  // in one sum of a tile: an fp32 sum over more positive products drifts

// Tiles 0 to 3 hold sums, 4 and 5 rows of A, 6 and 7 columns of B. A constant in memory, because the compiler does not
// know that loading it reads more than its first bytes.
struct alignas(64) TileLayout {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileLayout kTileLayout;

struct TileScope {
  PO_AMX_TARGET TileScope() { _tile_loadconfig(&kTileLayout); }
  PO_AMX_TARGET ~TileScope() { _tile_release(); }
};

PO_AMX_TARGET void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Sums += A B, for two blocks of rows and two of columns.
PO_AMX_TARGET void multiply(const AmxTile* a, const AmxTile* b, int64_t steps) {
  for (int64_t k = 0; k < steps; ++k) {
    _tile_loadd(4, a + k, 64);
    _tile_loadd(6, b + k, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + steps + k, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + steps + k, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

PO_AMX_TARGET void store_sums(float* out, int64_t pitch) {
  _tile_stored(0, out, 4 * pitch);
  _tile_stored(1, out + kEdge, 4 * pitch);
  _tile_stored(2, out + kEdge * pitch, 4 * pitch);
  _tile_stored(3, out + kEdge * pitch + kEdge, 4 * pitch);
}

// The first `count` of 32 bits.
uint32_t first_bits(int64_t count) {
  return count >= 32 ? ~uint32_t{0} : (uint32_t{1} << std::max<int64_t>(count, 0)) - 1;
}

// 16 lines of 32 elements, zeros beyond `lines` and `length`.
PO_AMX_TARGET void pack_plain(const BFloat16* from, int64_t pitch, int64_t lines, int64_t length, AmxTile& tile) {
  const __mmask32 mask = first_bits(length);
  for (int64_t i = 0; i < kEdge; ++i) {
    const __m512i line = _mm512_maskz_loadu_epi16(i < lines ? mask : 0, from + (i < lines ? i * pitch : 0));
    _mm512_store_si512(tile.element + i * kDepth, line);
  }
}

// 32 lines of 16 elements, each two lines woven into one row, zeros beyond `lines` and `length`.
PO_AMX_TARGET void pack_woven(const BFloat16* from, int64_t pitch, int64_t lines, int64_t length, AmxTile& tile) {
  const __mmask16 mask = static_cast<__mmask16>(first_bits(length));
  const auto line = [&](int64_t i) PO_AMX_TARGET {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(i < lines ? mask : 0, from + (i < lines ? i * pitch : 0)));
  };
  for (int64_t i = 0; i < kEdge; ++i) {
    const __m512i pair = _mm512_or_si512(line(2 * i), _mm512_slli_epi32(line(2 * i + 1), 16));
    _mm512_store_si512(tile.element + i * kDepth, pair);
  }
}

// The 16 x 16 pairs of a tile, transposed: first within quarters of a row, then the quarters themselves.
PO_AMX_TARGET void transpose(const AmxTile& from, AmxTile& to) {
  __m512i row[16], mixed[16];
  for (int i = 0; i < 16; ++i) row[i] = _mm512_load_si512(from.element + i * kDepth);
  for (int i = 0; i < 16; i += 2) {
    mixed[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    mixed[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    row[i] = _mm512_unpacklo_epi64(mixed[i], mixed[i + 2]);
    row[i + 1] = _mm512_unpackhi_epi64(mixed[i], mixed[i + 2]);
    row[i + 2] = _mm512_unpacklo_epi64(mixed[i + 1], mixed[i + 3]);
    row[i + 3] = _mm512_unpackhi_epi64(mixed[i + 1], mixed[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i even_low = _mm512_shuffle_i32x4(row[i], row[i + 4], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(row[i], row[i + 4], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xdd);
    mixed[i] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    mixed[i + 4] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    mixed[i + 8] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    mixed[i + 12] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
  for (int i = 0; i < 16; ++i) _mm512_store_si512(to.element + i * kDepth, mixed[i]);
}

// Tiles of one operand: `outer` blocks of 16 rows or columns, an even number, each `steps` deep.
struct Tiling {
  int64_t outer, steps;

  Tiling(int64_t outer_size, int64_t depth) : outer(2 * ceil_div(outer_size, kPatch)), steps(ceil_div(depth, kDepth)) {}
  int64_t count() const { return outer * steps; }
};

// Packs an operand whose blocks are lines of memory and whose depth runs along them.
PO_AMX_TARGET void pack_along(const BFloat16* from, int64_t pitch, int64_t lines, int64_t length, AmxTile* tiles) {
  const Tiling tiling(lines, length);
  for (int64_t tile = 0; tile < tiling.count(); ++tile) {
    const int64_t line = tile / tiling.steps * kEdge, element = tile % tiling.steps * kDepth;
    pack_plain(from + line * pitch + element, pitch, lines - line, length - element, tiles[tile]);
  }
}

// Packs an operand whose depth runs over the lines of memory and whose blocks lie along them.
PO_AMX_TARGET void pack_across(const BFloat16* from, int64_t pitch, int64_t lines, int64_t length, AmxTile* tiles) {
  const Tiling tiling(length, lines);
  for (int64_t tile = 0; tile < tiling.count(); ++tile) {
    const int64_t line = tile % tiling.steps * kDepth, element = tile / tiling.steps * kEdge;
    pack_woven(from + line * pitch + element, pitch, lines - line, length - element, tiles[tile]);
  }
}

// Pixels that a thread takes at once.
int64_t pixels_at_once(const FeatureMap& map) {
  return std::clamp(kPackedElements / map.channels / kPatch * kPatch, kPatch, kMostPixels);
}

// Calls f(i, j, rows, columns) for the patches of a symmetric matrix on and below its diagonal; rows and columns say
// how much of the patch lies inside.
template <class F>
void for_each_lower_patch(int64_t channels, F&& f) {
  for (int64_t i = 0; i < channels; i += kPatch) {
    for (int64_t j = 0; j <= i; j += kPatch) f(i, j, std::min(kPatch, channels - i), std::min(kPatch, channels - j));
  }
}

// The Gram of some pixels of one sample, on and below the diagonal.
PO_AMX_TARGET void partial_gram(const BFloat16* x, const FeatureMap& map, int64_t pixels, float* gram) {
  const int64_t channels = map.channels, step = pixels_at_once(map);
  std::vector<AmxTile> rows(Tiling(channels, step).count()), columns(rows.size());
  alignas(64) float patch[kPatch * kPatch];
  for (int64_t first = 0; first < pixels; first += step) {
    const int64_t count = std::min(step, pixels - first);
    const Tiling tiling(channels, count);
    const bool nchw = map.layout() == Layout::kNCHW;
    if (nchw) {
      pack_along(x + first, map.stride_c, channels, count, rows.data());
    } else {
      pack_across(x + first * map.stride_p, map.stride_p, count, channels, columns.data());
    }
    for (int64_t tile = 0; tile < tiling.count(); ++tile) {
      nchw ? transpose(rows[tile], columns[tile]) : transpose(columns[tile], rows[tile]);
    }
    for_each_lower_patch(channels, [&](int64_t i, int64_t j, int64_t height, int64_t width) PO_AMX_TARGET {
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

// gram += the partial Grams in order, on and below the diagonal, and the same above it.
PO_CPU_CLONES void finish_gram(const float* partials, int64_t count, int64_t channels, float* gram) {
  const int64_t area = channels * channels;
  for_each_lower_patch(channels, [&](int64_t i, int64_t j, int64_t height, int64_t width) {
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

// S as the two bf16 numbers nearest to it and to what is left, packed as the operand that stands beside a layout's
// maps.
struct SplitMatrix {
  std::vector<AmxTile> high, low;

  SplitMatrix(const float* symmetric, int64_t batch, int64_t channels, Layout layout)
      : high(batch * Tiling(channels, channels).count()), low(high.size()) {
    const int64_t area = channels * channels, tiles = Tiling(channels, channels).count();
    const auto pack = layout == Layout::kNCHW ? &pack_along : &pack_across;
    torch::stable::parallel_for(0, batch, ceil_div(kGrain, area), [&](int64_t begin, int64_t end) {
      std::vector<BFloat16> nearest(area), rest(area);
      for (int64_t n = begin; n < end; ++n) {
        for (int64_t i = 0; i < area; ++i) {
          nearest[i] = static_cast<BFloat16>(symmetric[n * area + i]);
          rest[i] = static_cast<BFloat16>(symmetric[n * area + i] - static_cast<float>(nearest[i]));
        }
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
  constexpr int64_t kParts = 32;  // of the batch: a function of the shape alone, as the order of sums must be
  const int64_t area = map.channels * map.channels, step = pixels_at_once(map);
  const int64_t parts = std::clamp<int64_t>(kParts / map.batch, 1, ceil_div(map.pixels, kMostPixels / 2));
  const int64_t pixels = ceil_div(ceil_div(map.pixels, parts), step) * step, used = ceil_div(map.pixels, pixels);
  std::vector<float> partials(map.batch * (used - 1) * area);
  torch::stable::parallel_for(
      0, map.batch * used, ceil_div(kGrain, map.channels * pixels), [&](int64_t begin, int64_t end) {
        const TileScope scope;
        for (int64_t task = begin; task < end; ++task) {
          const int64_t n = task / used, part = task % used, first = part * pixels;
          partial_gram(x + n * map.stride_n + first * map.stride_p, map, std::min(pixels, map.pixels - first),
                       part == 0 ? gram + n * area : &partials[(n * (used - 1) + part - 1) * area]);
        }
      });
  torch::stable::parallel_for(0, map.batch, ceil_div(kGrain, used * area), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      finish_gram(partials.data() + n * (used - 1) * area, used - 1, map.channels, gram + n * area);
    }
  });
}

void amx_gradient(const float* symmetric, const BFloat16* x, const FeatureMap& map, BFloat16* out,
                  const FeatureMap& out_map, const GradientTerm& term) {
  const Layout layout = map.layout();
  const bool nchw = layout == Layout::kNCHW;
  const int64_t step = pixels_at_once(map), blocks = ceil_div(map.pixels, step);
  const int64_t steps = ceil_div(map.channels, kDepth), matrix = Tiling(map.channels, map.channels).count();
  const SplitMatrix split(symmetric, map.batch, map.channels, layout);
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
          split_product(&split.high[n * matrix], &split.low[n * matrix], packed.data(), nchw, steps, lines, length,
                        sum.data());
          if (term) term(n, first, block, sum.data());
          for (int64_t run = 0; run < lines; ++run) {
            round_row(&sum[run * length], out + run_start(out_map, layout, n, run, first), length);
          }
        }
      });
}

}  // namespace perceptual_ops

#endif
