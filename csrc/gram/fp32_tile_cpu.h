// Register tile of an fp32 product: six rows by sixteen columns. It uses the compiler's vector types, as wide as the
// processor's, since arrays would not stay in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../common/cpu.h"

namespace perceptual_ops {
namespace {

constexpr int64_t kTileRows = 6, kTileColumns = 16;  // 12 sums of AVX2's 16 registers
template <class Sum>
using Tile = Sum[kTileRows][kTileColumns];
// Products in one chain of fp32 additions, whose error grows with its length. Chains are added in Sum: of fp64, short
// ones are as good as fp32 can tell.
template <class Sum>
constexpr int64_t kChain = std::is_same_v<Sum, double> ? 16 : 32;

template <int kBytes>
struct Vector {
  typedef float Lanes __attribute__((vector_size(kBytes)));
};

// sums += the column of A that lies `offset` from where its rows begin, times a line of B.
template <class Lanes, int64_t kParts>
PO_INLINE void add_outer(const float* const* rows, int64_t offset, const float* line,
                         Lanes (&sums)[kTileRows][kParts]) {
  Lanes right[kParts];
  for (int64_t part = 0; part < kParts; ++part) {
    std::memcpy(&right[part], line + part * kTileColumns / kParts, sizeof(Lanes));
  }
  for (int64_t r = 0; r < kTileRows; ++r) {
    const float left = rows[r][offset];
    for (int64_t part = 0; part < kParts; ++part) sums[r][part] += left * right[part];
  }
}

// tile += sums, or = where they are the first.
template <class Lanes, int64_t kParts>
PO_INLINE void add_sums(const Lanes (&sums)[kTileRows][kParts], bool first, Tile<float>& tile) {
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int64_t part = 0; part < kParts; ++part) {
      float* to = tile[r] + part * kTileColumns / kParts;
      Lanes total = sums[r][part];
      if (!first) {
        Lanes before;
        std::memcpy(&before, to, sizeof(before));
        total += before;
      }
      std::memcpy(to, &total, sizeof(total));
    }
  }
}
template <class Lanes, int64_t kParts>
PO_INLINE void add_sums(const Lanes (&sums)[kTileRows][kParts], bool first, Tile<double>& tile) {
  Tile<float> added;
  add_sums(sums, true, added);
  if (first) {
    for (int64_t r = 0; r < kTileRows; ++r) std::copy_n(added[r], kTileColumns, tile[r]);
  } else {
    for (int64_t r = 0; r < kTileRows; ++r) {
#pragma omp simd
      for (int64_t c = 0; c < kTileColumns; ++c) tile[r][c] += added[r][c];
    }
  }
}

// kChains accumulators per element hide the latency of additions.
template <int kBytes, int64_t kChains, class Sum>
PO_INLINE void tile_product(const float* const* rows, int64_t step, const float* panel, int64_t depth,
                            Tile<Sum>& tile) {
  constexpr int64_t kParts = kTileColumns * sizeof(float) / kBytes;
  using Lanes = typename Vector<kBytes>::Lanes;
  constexpr int64_t kRound = kChains * kChain<Sum>;
  for (int64_t first = 0; first < depth; first += kRound) {
    const int64_t end = std::min(first + kRound, depth);
    Lanes sums[kChains][kTileRows][kParts];
    for (auto& chain : sums) {
      for (auto& row : chain) {
        for (Lanes& lanes : row) lanes = Lanes{};
      }
    }
    int64_t k = first;
    for (; k + kChains <= end; k += kChains) {
      for (int64_t chain = 0; chain < kChains; ++chain) {
        add_outer(rows, (k + chain) * step, panel + (k + chain) * kTileColumns, sums[chain]);
      }
    }
    for (; k < end; ++k) add_outer(rows, k * step, panel + k * kTileColumns, sums[0]);
    for (int64_t chain = 1; chain < kChains; ++chain) {
      for (int64_t r = 0; r < kTileRows; ++r) {
        for (int64_t part = 0; part < kParts; ++part) sums[0][r][part] += sums[chain][r][part];
      }
    }
    add_sums(sums[0], first == 0, tile);
  }
}

// tile = A B for six rows of A, whose elements lie `step` apart, and a panel of B (depth, 16).
#ifdef __x86_64__
#define PO_MULTIPLY_TILE(kTarget, kBytes, kChains, Sum)                                                           \
  __attribute__((target(kTarget))) void multiply_tile(const float* const* rows, int64_t step, const float* panel, \
                                                      int64_t depth, Tile<Sum>& tile) {                           \
    tile_product<kBytes, kChains>(rows, step, panel, depth, tile);                                                \
  }
#define PO_MULTIPLY_TILES(Sum)             \
  PO_MULTIPLY_TILE("avx512f", 64, 2, Sum)  \
  PO_MULTIPLY_TILE("avx2,fma", 32, 1, Sum) \
  PO_MULTIPLY_TILE("default", 16, 1, Sum)
PO_MULTIPLY_TILES(float)
PO_MULTIPLY_TILES(double)
#else
template <class Sum>
void multiply_tile(const float* const* rows, int64_t step, const float* panel, int64_t depth, Tile<Sum>& tile) {
  tile_product<16, 1>(rows, step, panel, depth, tile);
}
#endif

// Calls store(i, height, tile) for rows i, ..., i + height - 1 of A (rows, depth), from `first` on, times a panel of B.
// row(i) is where row i begins.
template <class Sum, class Row, class Store>
void multiply_rows(int64_t first, int64_t rows, Row&& row, int64_t step, const float* panel, int64_t depth,
                   Store&& store) {
  const float* begins[kTileRows];
  Tile<Sum> tile;
  for (int64_t i = first; i < rows; i += kTileRows) {
    for (int64_t r = 0; r < kTileRows; ++r) begins[r] = row(std::min(i + r, rows - 1));
    multiply_tile(begins, step, panel, depth, tile);
    store(i, std::min(kTileRows, rows - i), tile);
  }
}

}  // namespace
}  // namespace perceptual_ops
