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

#define PO_AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,amx-tile,amx-bf16")))

namespace perceptual_ops {
namespace {

constexpr int64_t kEdge = 16;       // rows of a tile
constexpr int64_t kDepth = 32;      // elements that one tile product sums
constexpr int64_t kPatch = 32;      // rows and columns of a product that one task keeps in four tiles
constexpr int64_t kMostSteps = 32;  // tile products in one fp32 sum: more than 1024 positive numbers drift

constexpr int64_t kGrainSteps = 256;  // tile products, times four, that are worth waking another thread for

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

// Sums += A B over `steps` tiles, for two tiles of rows and two of columns.
PO_AMX_TARGET void multiply(const AmxTile* a, int64_t next_a, const AmxTile* b, int64_t next_b, int64_t steps) {
  for (int64_t k = 0; k < steps; ++k) {
    _tile_loadd(4, a + k, 64);
    _tile_loadd(6, b + k, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + next_b + k, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + next_a + k, 64);
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

// Calls f(tile index, outer, step) for every tile of `batch` operands, in parallel.
template <class F>
void for_each_tile(int64_t batch, const Tiling& tiling, F&& f) {
  const int64_t tiles = batch * tiling.count();
  torch::stable::parallel_for(0, tiles, kGrain / (kEdge * kDepth), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      f(tile, tile / tiling.count(), tile / tiling.steps % tiling.outer, tile % tiling.steps);
    }
  });
}

// Calls f(task) for every patch of a product of `steps` tiles, in parallel, by threads that are set up for AMX.
template <class F>
void for_each_patch(int64_t patches, int64_t steps, F&& f) {
  torch::stable::parallel_for(0, patches, ceil_div(kGrainSteps, steps), [&](int64_t begin, int64_t end) {
    const TileScope scope;
    for (int64_t task = begin; task < end; ++task) f(task);
  });
}

// What of a patch lies inside a matrix.
struct PatchSize {
  int64_t rows, columns;

  PatchSize(int64_t rows_left, int64_t columns_left)
      : rows(std::min(kPatch, rows_left)), columns(std::min(kPatch, columns_left)) {}
  bool full() const { return rows == kPatch && columns == kPatch; }
};

// Adds a patch to the Gram or, for the first, stores it.
void add_patch(const float* patch, PatchSize size, bool store, float* gram, int64_t pitch) {
  for (int64_t i = 0; i < size.rows; ++i) {
    for (int64_t j = 0; j < size.columns; ++j) {
      gram[i * pitch + j] = patch[i * kPatch + j] + (store ? 0.0f : gram[i * pitch + j]);
    }
  }
}

}  // namespace

bool amx_serves() {
  static const bool serves = [] {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return serves;
}

void AmxGram::pack(int64_t first, const FeatureMap& block) {
  const Tiling tiling(block.channels, block.pixels);
  const bool nchw = map_.layout() == Layout::kNCHW;
  rows_.resize(block.batch * tiling.count());
  columns_.resize(rows_.size());
  for_each_tile(block.batch, tiling, [&](int64_t tile, int64_t n, int64_t outer, int64_t step) {
    const int64_t channel = outer * kEdge, pixel = step * kDepth;
    const BFloat16* from = x_ + n * map_.stride_n + channel * map_.stride_c + (first + pixel) * map_.stride_p;
    if (nchw) {
      pack_plain(from, map_.stride_c, block.channels - channel, block.pixels - pixel, rows_[tile]);
      transpose(rows_[tile], columns_[tile]);
    } else {
      pack_woven(from, map_.stride_p, block.pixels - pixel, block.channels - channel, columns_[tile]);
      transpose(columns_[tile], rows_[tile]);
    }
  });
}

void AmxGram::add(int64_t first, const FeatureMap& block) {
  pack(first, block);
  const Tiling tiling(block.channels, block.pixels);
  const int64_t channels = block.channels, edge = tiling.outer / 2, pairs = edge * (edge + 1) / 2;
  const bool last = first + block.pixels == map_.pixels;
  for_each_patch(block.batch * pairs, tiling.steps, [&](int64_t task) {
    const int64_t n = task / pairs;
    int64_t i = 0, j = task % pairs;  // on or below the diagonal
    for (; j > i; ++i) j -= i + 1;
    const PatchSize size(channels - i * kPatch, channels - j * kPatch);
    float* sample = gram_ + n * channels * channels;
    float* lower = sample + i * kPatch * channels + j * kPatch;
    const AmxTile* rows = rows_.data() + (n * tiling.outer + 2 * i) * tiling.steps;
    const AmxTile* columns = columns_.data() + (n * tiling.outer + 2 * j) * tiling.steps;
    for (int64_t step = 0; step < tiling.steps; step += kMostSteps) {
      alignas(64) float patch[kPatch * kPatch];
      clear_sums();
      multiply(rows + step, tiling.steps, columns + step, tiling.steps, std::min(kMostSteps, tiling.steps - step));
      store_sums(patch, kPatch);
      add_patch(patch, size, first + step == 0, lower, channels);
    }
    if (!last || i == j) return;
    float* upper = sample + j * kPatch * channels + i * kPatch;
    for (int64_t c = 0; c < size.columns; ++c) {
      for (int64_t r = 0; r < size.rows; ++r) upper[c * channels + r] = lower[r * channels + c];
    }
  });
}

AmxGradient::AmxGradient(const float* symmetric, const BFloat16* x, const FeatureMap& map) : x_(x), map_(map) {
  const int64_t channels = map.channels, area = channels * channels;
  const Tiling tiling(channels, channels);
  const bool nchw = map.layout() == Layout::kNCHW;
  std::vector<BFloat16> high(map.batch * area), low(high.size());
  for (size_t i = 0; i < high.size(); ++i) {
    high[i] = static_cast<BFloat16>(symmetric[i]);
    low[i] = static_cast<BFloat16>(symmetric[i] - static_cast<float>(high[i]));
  }
  high_.resize(map.batch * tiling.count());
  low_.resize(high_.size());
  for_each_tile(map.batch, tiling, [&](int64_t tile, int64_t n, int64_t outer, int64_t step) {
    const int64_t edge = outer * kEdge, depth = step * kDepth;
    const int64_t from = n * area + (nchw ? edge * channels + depth : depth * channels + edge);
    const auto pack = nchw ? &pack_plain : &pack_woven;
    const int64_t lines = channels - (nchw ? edge : depth), length = channels - (nchw ? depth : edge);
    pack(high.data() + from, channels, lines, length, high_[tile]);
    pack(low.data() + from, channels, lines, length, low_[tile]);
  });
}

void AmxGradient::product(int64_t first, const FeatureMap& block, float* sum) {
  const Tiling matrix(block.channels, block.channels), pixels(block.pixels, block.channels);
  const bool nchw = map_.layout() == Layout::kNCHW;
  block_.resize(block.batch * pixels.count());
  for_each_tile(block.batch, pixels, [&](int64_t tile, int64_t n, int64_t outer, int64_t step) {
    const int64_t pixel = outer * kEdge, channel = step * kDepth;
    const BFloat16* from = x_ + n * map_.stride_n + channel * map_.stride_c + (first + pixel) * map_.stride_p;
    if (nchw) {
      pack_woven(from, map_.stride_c, block.channels - channel, block.pixels - pixel, block_[tile]);
    } else {
      pack_plain(from, map_.stride_p, block.pixels - pixel, block.channels - channel, block_[tile]);
    }
  });
  const Tiling &rows = nchw ? matrix : pixels, &columns = nchw ? pixels : matrix;
  const int64_t row_count = nchw ? block.channels : block.pixels, pitch = nchw ? block.pixels : block.channels;
  const int64_t patches = rows.outer * columns.outer / 4, steps = matrix.steps;
  for_each_patch(block.batch * patches, 2 * steps, [&](int64_t task) {
    const int64_t n = task / patches, i = task % patches / (columns.outer / 2), j = task % (columns.outer / 2);
    const PatchSize size(row_count - i * kPatch, pitch - j * kPatch);
    const int64_t row = (n * rows.outer + 2 * i) * steps, column = (n * columns.outer + 2 * j) * steps;
    clear_sums();
    for (const auto* part : {&high_, &low_}) {
      multiply((nchw ? *part : block_).data() + row, steps, (nchw ? block_ : *part).data() + column, steps, steps);
    }
    float* out = sum + n * block.sample_size() + i * kPatch * pitch + j * kPatch;
    if (size.full()) return store_sums(out, pitch);
    alignas(64) float patch[kPatch * kPatch];
    store_sums(patch, kPatch);
    for (int64_t r = 0; r < size.rows; ++r) std::copy_n(patch + r * kPatch, size.columns, out + r * pitch);
  });
}

}  // namespace perceptual_ops

#endif
