// Work decomposition of the Gram matrices of several layers and of their gradients: pure functions of the shapes, so
// that results are bit-equal on every device. For host and device; no torch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/distance.h"
#include "../common/feature_map.h"

namespace perceptual_ops {

constexpr int kMaxLayers = 16;  // of one launch: its tables travel as kernel parameters

// Channels per side of a tile of the Gram matrix. Narrow maps, of at most kNarrow channels, have one tile of that side.
constexpr int kTile = 128;
constexpr int kNarrow = 64;

// A fragment is the 16 x 8 output of one mma. Tiles on the diagonal hold the fragments on or below it: 2 (I + 1) in the
// I-th row of fragments.
constexpr int kFragmentRows = 16;
constexpr int kFragmentColumns = 8;
constexpr int kFragmentSize = kFragmentRows * kFragmentColumns;
constexpr int kNarrowFragments = 20;
constexpr int kDiagonalFragments = 72;
constexpr int kSquareFragments = 128;

struct Tile {
  int row, column;  // in tiles
};

// Enumerates items (stages or fragments) of the lower triangle's tiles, row by row: (0, 0), (1, 0), (1, 1), (2, 0), ...
// A diagonal tile, the last of its row, holds `diagonal` items, any other `square`, which is no less.
struct TriangleNumbers {
  uint32_t diagonal, square;

  // Of the rows of tiles before `row`.
  PO_HOST_DEVICE uint32_t before(int row) const { return row * diagonal + row * (row - 1) / 2 * square; }
  PO_HOST_DEVICE uint32_t first_of(const Tile& tile) const { return before(tile.row) + tile.column * square; }
  PO_HOST_DEVICE uint32_t count_of(const Tile& tile) const { return tile.row == tile.column ? diagonal : square; }
  PO_HOST_DEVICE Tile tile_of(uint32_t number) const {
    int row = 0;
    while (before(row + 1) <= number) ++row;
    return {row, static_cast<int>((number - before(row)) / square)};
  }
};

// Tiles along a side of a matrix, and the fragments on or below its diagonal.
PO_HOST_DEVICE int tile_rows(int64_t channels) { return static_cast<int>((channels + kTile - 1) / kTile); }
PO_HOST_DEVICE TriangleNumbers fragment_numbers(int64_t channels) {
  return {uint32_t(channels <= kNarrow ? kNarrowFragments : kDiagonalFragments), kSquareFragments};
}
PO_HOST_DEVICE uint32_t triangle_fragments(int64_t channels) {
  return fragment_numbers(channels).before(tile_rows(channels));
}

// The most fragments that a tile holds.
PO_HOST_DEVICE int64_t tile_fragments(int64_t channels) {
  return channels <= kNarrow ? kNarrowFragments : channels <= kTile ? kDiagonalFragments : kSquareFragments;
}

// Stream-K: the pipeline stages of all tiles of a launch (layer by layer, sample by sample, tile by tile) form one
// list, which is split into runs of equal length, one per block, across tile boundaries: so all blocks cost the same
// and the last wave is full. The part of a tile in a run is a piece; it writes partial sums.
struct Piece {
  int layer;
  uint32_t n;
  Tile tile;
  uint32_t first, count;  // stages of the tile
  uint32_t partial;       // number of its sums among the layer's
};

// The partial sums of a tile's pieces, in the order of its stages.
struct Partials {
  uint32_t first, count;
};

struct LayerStages {
  uint32_t first;         // in the list
  TriangleNumbers tiles;  // stages of the tiles of a sample
  uint32_t sample_tiles, sample_stages;
};

struct StageList {
  static constexpr uint32_t kBlocks = 264;  // at a time: two on each of the 132 SMs of an H200

  int layers;
  uint32_t stages;      // of all layers
  uint32_t run_stages;  // of a block; the last may have fewer
  uint32_t waves;       // of kBlocks runs
  LayerStages of[kMaxLayers];

  uint32_t blocks() const { return waves > 1 ? waves * kBlocks : (stages + run_stages - 1) / run_stages; }

  // The partial sums of a layer.
  int64_t partials(int number, int64_t batch) const {
    const LayerStages& layer = of[number];
    const int64_t end = layer.first + batch * layer.sample_stages;
    return batch * layer.sample_tiles + (end - 1) / run_stages - layer.first / run_stages;
  }

  // The run of a block. A wave takes every waves-th run and so mixes layers: some are memory-bound, others bound by
  // tensor cores, and they overlap on an SM.
  PO_HOST_DEVICE uint32_t run_of(uint32_t block) const { return block % kBlocks * waves + block / kBlocks; }

  // The piece that begins at a stage of the list.
  PO_HOST_DEVICE Piece piece(uint32_t stage) const {
    Piece piece{};
    while (piece.layer + 1 < layers && of[piece.layer + 1].first <= stage) ++piece.layer;
    const LayerStages& layer = of[piece.layer];
    const uint32_t of_layer = stage - layer.first, of_sample = of_layer % layer.sample_stages;
    piece.n = of_layer / layer.sample_stages;
    piece.tile = layer.tiles.tile_of(of_sample);
    piece.first = of_sample - layer.tiles.first_of(piece.tile);
    const uint32_t tile_left = layer.tiles.count_of(piece.tile) - piece.first;
    const uint32_t run_left = run_stages - stage % run_stages;
    piece.count = tile_left < run_left ? tile_left : run_left;
    piece.partial = partial(layer, piece.n, piece.tile, stage);
    return piece;
  }

  PO_HOST_DEVICE Partials partials(int number, uint32_t n, const Tile& tile) const {
    const LayerStages& layer = of[number];
    const uint32_t first = layer.first + n * layer.sample_stages + layer.tiles.first_of(tile);
    const uint32_t last = first + layer.tiles.count_of(tile) - 1;
    return {partial(layer, n, tile, first), last / run_stages - first / run_stages + 1};
  }

  // From one piece of a layer to the next the tile index grows by one, or the run index, or both: so does their sum.
  PO_HOST_DEVICE uint32_t partial(const LayerStages& layer, uint32_t n, const Tile& tile, uint32_t stage) const {
    constexpr TriangleNumbers kTiles{1, 1};
    return n * layer.sample_tiles + kTiles.first_of(tile) + stage / run_stages - layer.first / run_stages;
  }
};

// Depths (panels along the pixels) of a pipeline stage, which moves four panels: four of a narrow map, two of a
// diagonal tile, one of any other tile.
PO_HOST_DEVICE int stage_stretches(int64_t channels, const Tile& tile) {
  return channels <= kNarrow ? 4 : tile.row == tile.column ? 2 : 1;
}

// The stages of some layers of a launch. False where 32 bits cannot count them.
inline bool plan_stages(const FeatureMap* maps, int layers, int64_t depth, StageList& list) {
  // Runs of about 32 stages or more in up to four waves, so that writing partial sums stays under a tenth of the
  // traffic; of two stages at least where there are too few to fill the device.
  constexpr uint32_t kUsual = 32, kMaxWaves = 4, kMinStages = 2;
  int64_t stages = 0;
  for (int l = 0; l < layers; ++l) {
    const FeatureMap& map = maps[l];
    const int rows = tile_rows(map.channels);
    const auto of_tile = [&](const Tile& tile) {
      return ceil_div(map.pixels, stage_stretches(map.channels, tile) * depth);
    };
    const int64_t diagonal = of_tile({0, 0}), square = of_tile({1, 0});
    const int64_t sample = rows * diagonal + int64_t(rows) * (rows - 1) / 2 * square;
    list.of[l] = {static_cast<uint32_t>(stages),
                  {static_cast<uint32_t>(diagonal), static_cast<uint32_t>(square)},
                  static_cast<uint32_t>(rows * (rows + 1) / 2),
                  static_cast<uint32_t>(sample)};
    stages += map.batch * sample;
    if (stages > INT32_MAX) return false;
  }
  list.layers = layers;
  list.stages = static_cast<uint32_t>(stages);
  list.waves = std::clamp(list.stages / (StageList::kBlocks * kUsual), 1u, kMaxWaves);
  list.run_stages = std::max<uint32_t>(kMinStages, ceil_div(list.stages, StageList::kBlocks * list.waves));
  return true;
}

// Interleaves the work items of several layers evenly: some layers are memory-bound, others bound by tensor cores, and
// they overlap on an SM. Every layer has count * round / kRounds items before a round, so that an item is found without
// a list in memory.
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
