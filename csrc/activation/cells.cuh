// Cells of 2 x 2 pixels and eight channels, for windows at stride 2: cells partition the map among threads.
#pragma once

#include "groups.cuh"

namespace perceptual_ops {

constexpr int kCell = 2;  // pixels of a cell along an axis

// A sample cut into cells; counts under 2^31 (fits_units of the map): a 64-bit division would be a call that spills.
struct Cells {
  uint32_t columns;    // a row: ceil(W / kCell)
  uint32_t per_pixel;  // C / kGroup
  uint32_t count;      // a sample
  uint32_t blocks;     // a sample
};

inline Cells cells_of(const MapShape& map) {
  const int64_t columns = ceil_div(map.width, kCell), per_pixel = map.channels / kGroup;
  const int64_t count = ceil_div(map.height, kCell) * columns * per_pixel;
  return {static_cast<uint32_t>(columns), static_cast<uint32_t>(per_pixel), static_cast<uint32_t>(count),
          static_cast<uint32_t>(ceil_div(count, kActivationThreads))};
}

struct CellPlace {
  int row, column;  // of cells
  int unit;         // of eight channels

  static __device__ __forceinline__ CellPlace of(uint32_t number, const Cells& cells) {
    const uint32_t cell = number / cells.per_pixel;
    return {static_cast<int>(cell / cells.columns), static_cast<int>(cell % cells.columns),
            static_cast<int>(number % cells.per_pixel)};
  }
};

// The pixels of a cell. One outside of the map stands on the one before it.
struct CellPixels {
  bool exists[kCell][kCell];
  uint64_t places[kCell][kCell];  // of its channels, in the batch

  __device__ __forceinline__ CellPixels(uint32_t n, const CellPlace& place, int height, int width, uint32_t channels) {
    const int row = place.row * kCell, column = place.column * kCell;
#pragma unroll
    for (int dy = 0; dy < kCell; ++dy) {
#pragma unroll
      for (int dx = 0; dx < kCell; ++dx) {
        const bool has_row = dy == 0 || row + dy < height, has_column = dx == 0 || column + dx < width;
        const uint32_t y = row + (has_row ? dy : 0), x = column + (has_column ? dx : 0);
        exists[dy][dx] = has_row && has_column;
        places[dy][dx] = ((uint64_t(n) * height + y) * width + x) * channels + place.unit * kGroup;
      }
    }
  }
};

}  // namespace perceptual_ops
