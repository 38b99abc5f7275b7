// Host side of walk.cuh: how layers are split into blocks.
#pragma once

#include <algorithm>
#include <vector>

#include "../common/feature_map.h"
#include "../common/launch.h"
#include "statistics.h"
#include "walk.cuh"

namespace perceptual_ops {

// Packs per thread: many amortise the reduction of a block, few give small maps enough blocks to fill the device.
constexpr int64_t kMaxPacks = 48, kMinPacks = 12;
static_assert(kMinPacks % kDistsLoads == 0, "whole rounds of loads");
constexpr int64_t kEnoughBlocks = 512;

// Maps of one layer, dense and in one layout.
struct WalkedMaps {
  Layout layout;
  int64_t channels, pixels;
  bool packed;  // whether every sample of every map begins with a pack
};

// How a layer is cut into blocks; its LayerWalk in 64 bits.
struct Cut {
  bool nhwc, packed;
  int64_t fold;     // pixels that are taken as one
  int64_t width;    // elements of a pack
  int64_t units;    // packs along the pixels of a channel
  int64_t columns;  // of threads
  int64_t span;     // channels of a group
  int64_t groups;   // of a sample
  int64_t chunk;    // packs along the pixels of a block
  int64_t chunks;

  int64_t blocks(int64_t batch) const { return batch * groups * chunks; }
  int64_t partial(int64_t batch, int64_t moments) const { return blocks(batch) * moments * span; }
};

// The fewest pixels whose channels fill packs; 1 where a block cannot hold so many channels, or the pixels are no
// multiple.
template <class T>
int64_t fold_of(const WalkedMaps& maps) {
  int64_t fold = 1;
  while (maps.channels * fold % kPackWidth<T> != 0) fold *= 2;
  return maps.channels * fold <= kDistsSpan<T> && maps.pixels % fold == 0 ? fold : 1;
}

template <class T>
Cut cut_of(const WalkedMaps& maps, int64_t packs) {
  Cut cut{};
  cut.nhwc = maps.layout == Layout::kNHWC;
  cut.fold = cut.nhwc && maps.packed ? fold_of<T>(maps) : 1;
  cut.packed = maps.packed && (cut.nhwc ? maps.channels * cut.fold : maps.pixels) % kPackWidth<T> == 0;
  cut.width = cut.packed ? kPackWidth<T> : 1;
  if (cut.nhwc) {
    const int64_t across = ceil_div(maps.channels * cut.fold, cut.width);
    const int64_t most = cut.packed ? kPackColumns : kSingleColumns;
    for (cut.columns = 1; cut.columns < std::min(across, most);) cut.columns *= 2;
    cut.units = maps.pixels / cut.fold;
    cut.span = cut.fold > 1 ? maps.channels : cut.columns * cut.width;
  } else {
    cut.columns = cut.span = kDistsWarps;
    cut.units = maps.pixels / cut.width;
  }
  cut.groups = ceil_div(maps.channels, cut.span);
  cut.chunk = kDistsThreads / cut.columns * packs;
  cut.chunks = ceil_div(cut.units, cut.chunk);
  return cut;
}

template <class T>
std::vector<Cut> cuts_of(const std::vector<WalkedMaps>& layers, int64_t batch) {
  std::vector<Cut> cuts(layers.size());
  for (int64_t packs = kMaxPacks;; packs /= 2) {
    int64_t blocks = 0;
    for (size_t l = 0; l < layers.size(); ++l) {
      cuts[l] = cut_of<T>(layers[l], packs);
      blocks += cuts[l].blocks(batch);
    }
    if (blocks >= kEnoughBlocks || packs == kMinPacks) return cuts;
  }
}

inline LayerWalk walk_of(const WalkedMaps& maps, const Cut& cut) {
  LayerWalk walk{};
  walk.pixels = maps.pixels;
  walk.units = cut.units;
  walk.line = cut.nhwc ? maps.channels * cut.fold : cut.width;
  walk.across = cut.nhwc ? 1 : maps.pixels;
  walk.channels = maps.channels;
  walk.memory_channels = maps.channels * cut.fold;
  walk.columns = cut.columns;
  walk.span = cut.span;
  walk.groups = cut.groups;
  walk.chunks = cut.chunks;
  walk.chunk = cut.chunk;
  walk.nhwc = cut.nhwc;
  walk.packed = cut.packed;
  return walk;
}

// Whether blocks, channels and packs can be counted in 32 bits.
inline bool fits(const std::vector<WalkedMaps>& layers, const std::vector<Cut>& cuts, int64_t batch) {
  int64_t blocks = 0;
  for (size_t l = 0; l < layers.size(); ++l) {
    if (!fits_grid(layers[l].channels + cuts[l].columns * cuts[l].width)) return false;
    if (!fits_grid(cuts[l].units + cuts[l].chunk)) return false;
    blocks += cuts[l].blocks(batch);
  }
  return fits_grid(blocks);
}

template <class T>
MomentSizes moment_sizes(const std::vector<WalkedMaps>& layers, int64_t batch, int64_t moments) {
  MomentSizes sizes{};
  for (const Cut& cut : cuts_of<T>(layers, batch)) {
    sizes.partial += cut.partial(batch, moments);
    sizes.groups += batch * cut.groups;
  }
  return sizes;
}

// Calls launch(table, first layer, groups of a sample up to its last layer, blocks) for each launch, whose layers are
// walks with what `entry(l)` points to.
template <class T, class Entry, class F, class Table>
cudaError_t for_launches(const std::vector<WalkedMaps>& layers, int64_t batch, int64_t moments, Table table,
                         Entry&& entry, F&& launch) {
  const std::vector<Cut> cuts = cuts_of<T>(layers, batch);
  if (!fits(layers, cuts, batch)) return cudaErrorInvalidConfiguration;
  int64_t partial = 0;
  uint32_t groups = 0;
  for (size_t first = 0; first < layers.size(); first += kDistsLayers) {
    table.count = std::min<size_t>(kDistsLayers, layers.size() - first);
    uint32_t blocks = 0;
    for (uint32_t l = 0; l < table.count; ++l) {
      const Cut& cut = cuts[first + l];
      table.layers[l] = entry(first + l);
      LayerWalk& walk = table.layers[l];
      walk = walk_of(layers[first + l], cut);
      walk.first_block = blocks;
      walk.first_group = groups * batch;
      walk.partial = partial;
      blocks += cut.blocks(batch);
      groups += cut.groups;
      partial += cut.partial(batch, moments);
    }
    launch(table, first, groups, blocks);
  }
  return cudaGetLastError();
}

}  // namespace perceptual_ops
