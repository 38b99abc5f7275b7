// How the Gram matrices of several layers are cut into work items: pure functions of the shapes, so that the same input
// gives the same bits on every device. For host and device; no torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/distance.h"
#include "../common/feature_map.h"

namespace perceptual_ops {

constexpr int kMaxLayers = 16;  // of one launch: its tables travel as kernel parameters

// Channels along the side of a tile of the Gram matrix. Maps of at most kNarrow channels have one tile of that side.
constexpr int kTile = 128;
constexpr int kNarrow = 64;

// A tensor core makes 16 x 8 of a tile at a time, a fragment. Tiles on the diagonal hold those that reach it: 2 (I + 1)
// in the I-th row of fragments.
constexpr int kFragmentRows = 16;
constexpr int kFragmentColumns = 8;
constexpr int kFragmentSize = kFragmentRows * kFragmentColumns;
constexpr int kNarrowFragments = 20;
constexpr int kDiagonalFragments = 72;
constexpr int kSquareFragments = 128;

struct Tile {
  int row, column;  // in tiles
};

// Fragments of the rows of tiles before `row`.
PO_HOST_DEVICE uint32_t fragments_before(int row) {
  return row * kDiagonalFragments + row * (row - 1) / 2 * kSquareFragments;
}

// The first fragment of a tile.
PO_HOST_DEVICE uint32_t tile_fragment(const Tile& tile) {
  return fragments_before(tile.row) + tile.column * kSquareFragments;
}

// Tile number t of the lower triangle, row by row: (0, 0), (1, 0), (1, 1), (2, 0), ...
PO_HOST_DEVICE Tile triangle_tile(uint32_t t) {
  int row = 0;
  while (uint32_t(row + 1) * (row + 2) / 2 <= t) ++row;
  const int column = static_cast<int>(t) - row * (row + 1) / 2;
  return {row, column};
}

// The tile that holds a fragment of a sample.
PO_HOST_DEVICE Tile fragment_tile(uint32_t fragment) {
  int row = 0;
  while (fragments_before(row + 1) <= fragment) ++row;
  auto column = static_cast<int>((fragment - fragments_before(row)) / kSquareFragments);
  if (column > row) column = row;  // the diagonal tile comes last, and is smaller
  return {row, column};
}

// Tiles and fragments on or below the diagonal of one sample.
PO_HOST_DEVICE uint32_t triangle_tiles(int64_t channels) {
  const auto side = static_cast<uint32_t>((channels + kTile - 1) / kTile);
  return side * (side + 1) / 2;
}
PO_HOST_DEVICE uint32_t triangle_fragments(int64_t channels) {
  if (channels <= kNarrow) return kNarrowFragments;
  return fragments_before(static_cast<int>((channels + kTile - 1) / kTile));
}

// The ranges that the pixels of a layer, the K of its product, are cut into: split-K.
struct Split {
  uint32_t count;
  int64_t pixels;  // of a range; the last may be shorter
};

// Cuts the layers so that their items cost about the same. A pipeline stage of gram.cuh moves four panels, and four
// stretches of `depth` pixels of a narrow map are one stage, two of a tile on the diagonal, one of any other tile.
inline std::vector<Split> plan_splits(const std::vector<FeatureMap>& layers, int64_t depth) {
  // Enough items for a few rounds over the largest device, but of twelve stages at least, which keeps the partial sums
  // under a tenth of what is read; maps too small for that to fill a device are cut further.
  constexpr int64_t kItems = 1024, kDevice = 132, kStages = 12, kLeast = 2;
  const auto quarter_stages = [&](const FeatureMap& map) {  // of a sample, all tiles
    const int64_t side = ceil_div(map.channels, kTile);
    return ceil_div(map.pixels, depth) * (map.channels <= kNarrow ? 1 : 2 * side * side);
  };
  int64_t total = 0;
  for (const FeatureMap& map : layers) total += map.batch * quarter_stages(map);
  total /= 4;
  const int64_t stages = std::max(total / kItems, std::min(kStages, std::max(kLeast, total / kDevice)));
  std::vector<Split> splits;
  for (const FeatureMap& map : layers) {
    const int64_t wanted =
        std::max<int64_t>(1, quarter_stages(map) / (4 * stages * int64_t(triangle_tiles(map.channels))));
    const int64_t whole = (map.channels <= kNarrow ? 4 : 2) * depth;  // pixels of a stage of the first tile
    const int64_t pixels = ceil_div(ceil_div(map.pixels, wanted), whole) * whole;
    splits.push_back({static_cast<uint32_t>(ceil_div(map.pixels, pixels)), pixels});
  }
  return splits;
}

// Work items of several layers, each layer's spread evenly over the whole list: some layers wait for memory and some
// for tensor cores, and an SM that has both at a time waits least. Every layer has count * round / kRounds items before
// a round, so that an item's place is found without a list in memory.
struct Interleaving {
  static constexpr int kLogRounds = 6, kRounds = 1 << kLogRounds;

  struct Item {
    int layer;
    uint32_t index;  // among the layer's
  };

  int layers;
  uint32_t counts[kMaxLayers];
  uint32_t starts[kRounds];  // the first position of each round, by set_starts

  PO_HOST_DEVICE uint32_t before(int layer, uint32_t round) const {
    return static_cast<uint32_t>(uint64_t(counts[layer]) * round >> kLogRounds);
  }

  // Once the counts are there; returns their sum.
  uint32_t set_starts() {
    uint32_t start = 0;
    for (int round = 0; round < kRounds; ++round) {
      starts[round] = start;
      for (int layer = 0; layer < layers; ++layer) start += before(layer, round + 1) - before(layer, round);
    }
    return start;
  }

  // 0 <= position < the sum of the counts
  PO_HOST_DEVICE Item item(uint32_t position) const {
    uint32_t round = 0;
    for (uint32_t step = kRounds / 2; step > 0; step /= 2) {
      if (starts[round + step] <= position) round += step;
    }
    uint32_t left = position - starts[round];
    for (int layer = 0;; ++layer) {
      const uint32_t first = before(layer, round), here = before(layer, round + 1) - first;
      if (left < here || layer + 1 == layers) return {layer, first + left};
      left -= here;
    }
  }
};

}  // namespace perceptual_ops
