// AMX tiles: tile products, and packing of maps into tiles.
//
// A tile product takes 16 rows of A with 32 elements each, and 32 rows of B with 16 elements each, interleaved in pairs
// (VNNI).
// Maps are packed into such tiles from their lines, the rows that lie in memory: channels in NCHW, pixels in NHWC. A
// tile of 16 lines is an A, a tile of 32 interleaved lines is a B, and transposing 4-byte pairs converts one into the
// other.
#pragma once

// gcc 12 takes the operand that an intrinsic leaves undefined on purpose for a mistake (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "../common/cpu.h"

#define PO_AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,amx-tile,amx-bf16")))

namespace perceptual_ops {

// One operand of a tile product, 1 KB: 16 rows of 32 elements.
struct alignas(64) AmxTile {
  BFloat16 element[16 * 32];
};

constexpr int64_t kEdge = 16;   // rows of a tile
constexpr int64_t kDepth = 32;  // elements that one tile product sums
constexpr int64_t kPatch = 32;  // rows and columns of a product that one task keeps in four tiles

// Tiles 0 to 3 hold sums, 4 and 5 rows of A, 6 and 7 columns of B. A constant in memory, because the compiler does not
// know that loading it reads more than its first bytes.
struct alignas(64) TileLayout {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr TileLayout kTileLayout;

struct TileScope {
  PO_AMX_TARGET TileScope() { _tile_loadconfig(&kTileLayout); }
  PO_AMX_TARGET ~TileScope() { _tile_release(); }
};

PO_AMX_TARGET inline void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Sums += A B, for two blocks of rows and two of columns.
PO_AMX_TARGET inline void multiply(const AmxTile* a, const AmxTile* b, int64_t steps) {
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

PO_AMX_TARGET inline void store_sums(float* out, int64_t pitch) {
  _tile_stored(0, out, 4 * pitch);
  _tile_stored(1, out + kEdge, 4 * pitch);
  _tile_stored(2, out + kEdge * pitch, 4 * pitch);
  _tile_stored(3, out + kEdge * pitch + kEdge, 4 * pitch);
}

// The first `count` of 32 bits.
inline uint32_t first_bits(int64_t count) {
  return count >= 32 ? ~uint32_t{0} : (uint32_t{1} << std::max<int64_t>(count, 0)) - 1;
}

// 16 lines of 32 elements, zeros beyond `lines` and `length`.
PO_AMX_TARGET inline void pack_plain(const BFloat16* from, int64_t pitch, int64_t lines, int64_t length,
                                     AmxTile& tile) {
  const __mmask32 mask = first_bits(length);
  for (int64_t i = 0; i < kEdge; ++i) {
    const __m512i line = _mm512_maskz_loadu_epi16(i < lines ? mask : 0, from + (i < lines ? i * pitch : 0));
    _mm512_store_si512(tile.element + i * kDepth, line);
  }
}

// 32 lines of 16 elements, each two interleaved into one row, zeros beyond `lines` and `length`.
PO_AMX_TARGET inline void pack_woven(const BFloat16* from, int64_t pitch, int64_t lines, int64_t length,
                                     AmxTile& tile) {
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
PO_AMX_TARGET inline void transpose(const AmxTile& from, AmxTile& to) {
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
PO_AMX_TARGET inline void pack_along(const BFloat16* from, int64_t pitch, int64_t lines, int64_t length,
                                     AmxTile* tiles) {
  const Tiling tiling(lines, length);
  for (int64_t tile = 0; tile < tiling.count(); ++tile) {
    const int64_t line = tile / tiling.steps * kEdge, element = tile % tiling.steps * kDepth;
    pack_plain(from + line * pitch + element, pitch, lines - line, length - element, tiles[tile]);
  }
}

// Packs an operand whose depth runs over the lines of memory and whose blocks lie along them.
PO_AMX_TARGET inline void pack_across(const BFloat16* from, int64_t pitch, int64_t lines, int64_t length,
                                      AmxTile* tiles) {
  const Tiling tiling(length, lines);
  for (int64_t tile = 0; tile < tiling.count(); ++tile) {
    const int64_t line = tile % tiling.steps * kDepth, element = tile / tiling.steps * kEdge;
    pack_woven(from + line * pitch + element, pitch, lines - line, length - element, tiles[tile]);
  }
}

}  // namespace perceptual_ops
