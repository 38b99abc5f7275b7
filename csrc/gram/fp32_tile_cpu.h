// Six rows by sixteen columns of an fp32 product, in registers. Vectors are those of the compiler, as wide as a
// processor's: loops over arrays would not stay in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../common/cpu.h"

namespace perceptual_ops {
namespace {

constexpr int64_t kTileRows = 6, kTileColumns = 16;  // 12 sums of AVX2's 16 registers
constexpr int64_t kSummed = 32;                      // products in one chain of additions, whose error grows with it
using Tile = float[kTileRows][kTileColumns];

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

// Each element has kChains sums, so that additions don't wait for each other.
template <int kBytes, int64_t kChains>
PO_INLINE void tile_product(const float* const* rows, int64_t step, const float* panel, int64_t depth, Tile& tile) {
  using Lanes = typename Vector<kBytes>::Lanes;
  constexpr int64_t kParts = sizeof(Tile) / kTileRows / kBytes;
  for (int64_t first = 0; first < depth; first += kSummed) {
    const int64_t end = std::min(first + kSummed, depth);
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
    for (int64_t r = 0; r < kTileRows; ++r) {
      for (int64_t part = 0; part < kParts; ++part) {
        Lanes total = sums[0][r][part];
        for (int64_t chain = 1; chain < kChains; ++chain) total += sums[chain][r][part];
        float* to = tile[r] + part * kTileColumns / kParts;
        if (first > 0) {
          Lanes before;
          std::memcpy(&before, to, sizeof(before));
          total += before;
        }
        std::memcpy(to, &total, sizeof(total));
      }
    }
  }
}

// tile = A B for six rows of A, whose elements lie `step` apart, and a panel of B (depth, 16).
#ifdef __x86_64__
__attribute__((target("avx512f"))) void multiply_tile(const float* const* rows, int64_t step, const float* panel,
                                                      int64_t depth, Tile& tile) {
  tile_product<64, 2>(rows, step, panel, depth, tile);
}
__attribute__((target("avx2,fma"))) void multiply_tile(const float* const* rows, int64_t step, const float* panel,
                                                       int64_t depth, Tile& tile) {
  tile_product<32, 1>(rows, step, panel, depth, tile);
}
__attribute__((target("default")))
#endif
void multiply_tile(const float* const* rows, int64_t step, const float* panel, int64_t depth, Tile& tile) {
  tile_product<16, 1>(rows, step, panel, depth, tile);
}

// Calls store(i, height, tile) for rows i, ..., i + height - 1 of A (rows, depth), from `first` on, times a panel of B.
// row(i) is where row i begins.
template <class Row, class Store>
void multiply_rows(int64_t first, int64_t rows, Row&& row, int64_t step, const float* panel, int64_t depth,
                   Store&& store) {
  const float* begins[kTileRows];
  Tile tile;
  for (int64_t i = first; i < rows; i += kTileRows) {
    for (int64_t r = 0; r < kTileRows; ++r) begins[r] = row(std::min(i + r, rows - 1));
    multiply_tile(begins, step, panel, depth, tile);
    store(i, std::min(kTileRows, rows - i), tile);
  }
}

}  // namespace
}  // namespace perceptual_ops
