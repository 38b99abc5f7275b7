// Thread mapping of the kernels that reduce maps by channel: all layers in one launch; a block takes a range of pixels
// of a group of channels of one sample, a thread packs of them.
//
// NHWC: a pack is kWidth channels of one pixel; threads stand in `columns` packs of a pixel and as many rows of pixels
// as there are threads. If C is not a multiple of a pack, `fold` neighbouring pixels are viewed as one with `fold`
// times the channels, whose sums are added at the end: so images of three channels are read by packs too. NCHW: a pack
// is kWidth pixels of one channel; each warp has a channel of its own.
#pragma once

#include "../common/cuda_element.cuh"
#include "../common/reduce.cuh"
#include "../common/vec.cuh"

namespace perceptual_ops {

constexpr int kDistsThreads = 256;
constexpr int kDistsWarps = kDistsThreads / kWarp;
constexpr int kDistsBlocks = 2;  // an SM
constexpr int kDistsLoads = 6;   // of packs, in flight per thread
constexpr int kDistsLayers = 16;

// Of each of the maps that are read.
template <int kMaps>
constexpr int kLoads = kDistsLoads / kMaps;

// Packs of a pixel, and single channels, that stand side by side in a block.
constexpr int kPackColumns = 16;
constexpr int kSingleColumns = 32;
// Channels in memory of a block, at most.
template <class T>
constexpr int kDistsSpan = kPackColumns * kPackWidth<T>;
static_assert(kSingleColumns <= kDistsSpan<double> && kDistsWarps <= kDistsSpan<double>, "a block holds its channels");
static_assert(kSingleColumns <= kWarp, "lanes a multiple of the columns apart have the same channels");

// One layer as its blocks walk it.
struct LayerWalk {
  int64_t pixels;            // P
  int64_t line;              // elements from pack to pack along the pixels
  int64_t across;            // elements from channel to channel
  int64_t partial;           // its first number in the partial sums
  uint32_t units;            // packs along the pixels of a channel
  uint32_t channels;         // C
  uint32_t memory_channels;  // C * fold
  uint32_t columns;          // of threads, a power of two
  uint32_t span;             // C of a group
  uint32_t groups, chunks;   // of a sample, of a group
  uint32_t chunk;            // packs along the pixels that a block takes
  uint32_t first_block;      // in the grid
  uint32_t first_group;      // of all layers' N * groups
  bool nhwc, packed;
};

// The layers of a launch, each a LayerWalk with its pointers. A kernel parameter: the constant bank serves all threads
// of a block at once.
template <class Layer>
struct LayerTable {
  Layer layers[kDistsLayers];
  uint32_t count;
};

// Which part of which layer a block takes.
struct DistsPlace {
  uint32_t layer, n, group, chunk;
};

// Grid: the layers one after the other, N * groups * chunks blocks each, chunks innermost; under 2^31 (cut.cuh
// checks): a 64-bit division would be a call that spills.
template <class Layer>
__device__ __forceinline__ DistsPlace dists_place(const LayerTable<Layer>& table) {
  uint32_t l = 0;
  while (l + 1 < table.count && table.layers[l + 1].first_block <= blockIdx.x) ++l;
  const LayerWalk& layer = table.layers[l];
  const uint32_t block = blockIdx.x - layer.first_block, group = block / layer.chunks;
  return {l, group / layer.groups, group % layer.groups, block % layer.chunks};
}

// What one thread walks.
struct ThreadWalk {
  int column, row;  // of the block's
  bool has_channel;
  int packs;       // none where there is no channel or no pixel for it
  int64_t origin;  // element of the sample: the first pixel of its first channel
  int64_t first;   // element of the sample
  int64_t step;    // elements from pack to pack
};

template <int kChannels, bool kNhwc>
__device__ __forceinline__ ThreadWalk thread_walk(const LayerWalk& layer, const DistsPlace& place) {
  const uint32_t columns = layer.columns, rows = kDistsThreads / columns;
  const uint32_t column = kNhwc ? threadIdx.x % columns : threadIdx.x / rows;
  const uint32_t row = kNhwc ? threadIdx.x / columns : threadIdx.x % rows;
  const uint32_t channel = (place.group * columns + column) * kChannels, begin = place.chunk * layer.chunk;
  const uint32_t units = min(layer.units - begin, layer.chunk);
  const bool has_channel = channel < layer.memory_channels, has_pixels = row < units;
  const int64_t origin = channel * layer.across;
  return {static_cast<int>(column),
          static_cast<int>(row),
          has_channel,
          has_channel && has_pixels ? static_cast<int>((units - row + rows - 1) / rows) : 0,
          origin,
          origin + (int64_t(begin) + row) * layer.line,
          rows * layer.line};
}

// Channels of a place's group.
__device__ __forceinline__ int group_channels(const LayerWalk& layer, const DistsPlace& place) {
  return static_cast<int>(min(layer.span, layer.channels - place.group * layer.span));
}

// Calls f(kWidth, kNhwc) as constants.
template <class T, class F>
__device__ __forceinline__ void dispatch_walk(const LayerWalk& layer, F&& f) {
  using Packs = std::integral_constant<int, kPackWidth<T>>;
  using Singles = std::integral_constant<int, 1>;
  if (layer.nhwc) {
    layer.packed ? f(Packs{}, std::true_type{}) : f(Singles{}, std::true_type{});
  } else {
    layer.packed ? f(Packs{}, std::false_type{}) : f(Singles{}, std::false_type{});
  }
}

}  // namespace perceptual_ops
