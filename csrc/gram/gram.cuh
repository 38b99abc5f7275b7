// Partial sums of Gram matrices: X X^T over a range of pixels, for all layers and samples in one launch.
//
// Split-K: a block makes one tile of one sample from one range of pixels, and finish.cuh adds the ranges up. It reads
// its pixels in the stages of a software pipeline (cp.async), four panels each: of a tile off the diagonal the rows'
// two and the columns' two; of a tile on the diagonal, where they are the same, two of a stretch of pixels and two of
// the next; of a map of up to 64 channels four stretches of its one panel, each multiplied by two warps of its own
// (sliced-K). So every stage moves 32 KB and an item's cost is its number of stages. Tiles on the diagonal make only
// the fragments that reach it.
//
// Targets: 256 threads. 16-bit maps: 128 registers, so that two blocks share an SM of 200 KB or more (sm_90, sm_100;
// elsewhere one fits) and one multiplies while the other begins or ends; fp32 holds both parts of its numbers, fp64 its
// 64 totals, in up to 255 registers of one block. 96 KB of shared memory in three stages, two of them under way: 64 KB
// are twice what an SM of the H200 has to have under way to reach the memory's speed.
#pragma once

#include "../common/shared.cuh"
#include "plan.h"
#include "product.cuh"

namespace perceptual_ops {

struct GramLayer {
  const void* x;  // (N, C, P), strides of `map`
  FeatureMap map;
  bool nhwc;
  bool aligned;
  uint32_t tiles;
  int64_t split_pixels;
  int64_t partial;  // where the layer's partial sums begin: (splits, N, fragments of the tiles, 16 * 8)
};

struct GramTable {
  Interleaving items;  // of a layer: (splits, N, tiles)
  GramLayer layers[kMaxLayers];
};

constexpr int kStagePanels = 4;
constexpr int kStages = kPanels / kStagePanels;
template <class T>
constexpr int kBlocksPerSm = sizeof(T) == 2 ? 2 : 1;

// The 64 x 32 results of a tile that a warp makes.
struct WarpPart {
  int row, column;          // first, in the tile
  int first_chunk, chunks;  // stretches of pixels of a stage
  Cover cover;
  bool idle;
};

// On the diagonal two of the eight parts hold nothing and two little. The four pairs of warps that share a scheduler of
// the SM get about the same: 16 + 0, 16 + 0, 14 + 6 and 14 + 6 fragments; of a narrow map 14 + 6 each.
__device__ __forceinline__ WarpPart warp_part(bool narrow, bool diagonal, int rows_left, int columns_left) {
  constexpr uint32_t kParts = 0x71326054;  // part of each warp: 4 * (64 rows) + (32 columns)
  const int warp = threadIdx.x / 32;
  WarpPart part;
  if (narrow) {
    part = {0, ((warp & 1) ^ (warp >> 2)) * kWarpColumns, warp / 2, 1, Cover::kAll, false};
  } else {
    const int number = kParts >> (4 * warp) & 7;
    part = {number / 4 * kWarpRows, number % 4 * kWarpColumns, 0, diagonal ? 2 : 1, Cover::kAll, false};
  }
  const int below = part.row - part.column;  // the part's first corner, below the diagonal
  if (diagonal && below <= 0) part.cover = below == 0 ? Cover::kLower : Cover::kCorner;
  part.idle = (diagonal && below < -kWarpColumns) || part.row >= rows_left || part.column >= columns_left;
  return part;
}

// Adds up the totals of the four pairs of warps of a narrow map, in order, in the first pair.
template <class T>
__device__ __forceinline__ void add_chunks(const WarpPart& part, unsigned char* shared, Totals<T>& totals) {
  using Acc = DeviceAccumulator<T>;
  constexpr int kLanes = 32, kNumbers = kRowBlocks * kColumnBlocks * 4;
  Acc* mine = reinterpret_cast<Acc*>(shared) + part.column / kWarpColumns * kNumbers * kLanes + lane_index();
  constexpr int kPair = 2 * kNumbers * kLanes;
  static_assert(3 * kPair * sizeof(Acc) <= kSharedBytes, "three pairs of warps leave their totals in shared memory");
  __syncthreads();  // the last stage is read
  if (part.first_chunk > 0) {
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      mine[(part.first_chunk - 1) * kPair + i * kLanes] = totals[i / 16][i / 4 % 4][i % 4];
    }
  }
  __syncthreads();  // the totals are there
  if (part.first_chunk > 0) return;
  for (int chunk = 0; chunk < 3; ++chunk) {
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) totals[i / 16][i / 4 % 4][i % 4] += mine[chunk * kPair + i * kLanes];
  }
}

template <class T>
__device__ __forceinline__ void store_fragments(const WarpPart& part, bool diagonal, int rows_left, int columns_left,
                                                const Totals<T>& totals,
                                                DeviceAccumulator<T>* __restrict__ partial) {  // (fragments, 16 * 8)
  using Acc = DeviceAccumulator<T>;
  const bool all = part.cover == Cover::kAll, lower = part.cover != Cover::kCorner;
#pragma unroll
  for (int i = 0; i < kRowBlocks; ++i) {
#pragma unroll
    for (int j = 0; j < kColumnBlocks; ++j) {
      const int row = part.row / kFragmentRows + i, column = part.column / kFragmentColumns + j;
      if (!wanted(i, j, all, lower) || row * kFragmentRows >= rows_left || column * kFragmentColumns >= columns_left)
        continue;
      const int fragment = diagonal ? row * (row + 1) + column : row * (kTile / kFragmentColumns) + column;
      Acc* to = partial + fragment * kFragmentSize + lane_index() * 4;
#pragma unroll
      for (int e = 0; e < 4; e += kUnit<Acc>) {
        Pack<Acc> pack;
#pragma unroll
        for (int k = 0; k < kUnit<Acc>; ++k) pack.values[k] = totals[i][j][e + k];
        store_pack(to + e, pack);
      }
    }
  }
}

// What the threads of a block share: in shared memory, because registers are for the totals.
template <class T>
struct GramJob {
  Matrix<T> x;  // from the range's first pixel on
  int pixels;
  int first_row, first_column;    // of the tile
  int chunk_panels;               // of a stretch of pixels: 1, 2 or 4
  DeviceAccumulator<T>* partial;  // (fragments, 16 * 8), of the tile

  __device__ __forceinline__ bool narrow() const { return chunk_panels == 1; }
  __device__ __forceinline__ bool diagonal() const { return chunk_panels < 4; }
  __device__ __forceinline__ int stage_pixels() const { return kStagePanels / chunk_panels * kDepth<T>; }
  __device__ __forceinline__ int stages() const { return (pixels + stage_pixels() - 1) / stage_pixels(); }
  __device__ __forceinline__ int rows_left() const { return x.rows - first_row; }
  __device__ __forceinline__ int columns_left() const { return x.rows - first_column; }
};

template <class T>
__device__ __forceinline__ GramJob<T> gram_job(const GramLayer& layer, uint32_t item,
                                               DeviceAccumulator<T>* partial) {  // of all layers
  const FeatureMap& map = layer.map;
  const uint32_t range = item / layer.tiles;  // (splits, N)
  const int64_t n = range % uint32_t(map.batch), begin = range / uint32_t(map.batch) * layer.split_pixels;
  const Tile tile = triangle_tile(item % layer.tiles);
  const int64_t fragment = int64_t(range) * triangle_fragments(map.channels) + tile_fragment(tile);
  return {{static_cast<const T*>(layer.x) + n * map.stride_n + begin * map.stride_p,
           layer.nhwc ? map.stride_p : map.stride_c, static_cast<int>(map.channels), layer.aligned},
          static_cast<int>(min(map.pixels - begin, layer.split_pixels)),
          tile.row * kTile,
          tile.column * kTile,
          map.channels <= kNarrow   ? 1
          : tile.row == tile.column ? 2
                                    : 4,
          partial + layer.partial + fragment * kFragmentSize};
}

template <bool kNhwc, class T>
__device__ __forceinline__ void fill_stage(const GramJob<T>& job, int stage, unsigned char* shared) {
  unsigned char* to = shared + stage % kStages * kStagePanels * kPanelBytes;
#pragma unroll 1
  for (int panel = 0; panel < kStagePanels; ++panel, to += kPanelBytes) {
    const int chunk = panel / job.chunk_panels, place = panel % job.chunk_panels;
    const int row = (place < 2 ? job.first_row : job.first_column) + place % 2 * kPanelRows;
    fill_panel<!kNhwc>(job.x, row, stage * job.stage_pixels() + chunk * kDepth<T>, job.pixels, to);
  }
}

template <class T, bool kNhwc>
__device__ __forceinline__ void sum_tile(const GramJob<T>& job) {
  using Parts = WarpPart[kThreads / 32];
  PO_DYNAMIC_SHARED(shared);
  PO_SHARED(Parts, parts);  // for the same reason as the job
  const WarpPart& part = parts[threadIdx.x / 32];
  if (lane_index() == 0) {
    parts[threadIdx.x / 32] = warp_part(job.narrow(), job.diagonal(), job.rows_left(), job.columns_left());
  }
  __syncwarp();  // the part is there
  const int stages = job.stages();
  Totals<T> totals = {};
  // The prologue fills the pipeline, then comes the main loop.
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < stages) fill_stage<kNhwc>(job, stage, shared);
    commit_copies();
  }
#pragma unroll 1
  for (int stage = 0; stage < stages; ++stage) {
    wait_copies<kStages - 2>();
    __syncthreads();  // this stage is whole, and the one before it is read
    if (stage + kStages - 1 < stages) fill_stage<kNhwc>(job, stage + kStages - 1, shared);
    commit_copies();
    if (part.idle) continue;
    const unsigned char* panels = shared + stage % kStages * kStagePanels * kPanelBytes;
#pragma unroll 1
    for (int chunk = part.first_chunk; chunk < part.first_chunk + part.chunks; ++chunk) {
      const unsigned char* here = panels + chunk * job.chunk_panels * kPanelBytes;
      const int a_panel = part.row / kPanelRows, b_panel = part.column / kPanelRows + (job.diagonal() ? 0 : 2);
      PanelProduct<T, !kNhwc, !kNhwc>::add(here + a_panel * kPanelBytes, here + b_panel * kPanelBytes,
                                           part.column % kPanelRows, part.cover, totals);
    }
  }

  // The epilogue.
  if (job.narrow()) add_chunks<T>(part, shared, totals);
  if (part.idle || part.first_chunk > 0) return;
  store_fragments<T>(part, job.diagonal(), job.rows_left(), job.columns_left(), totals, job.partial);
}

// Grid: the items of the table. The first launch of a sum also sets the arrivals to zero that its finish will count.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm<T>)
    gram_sum_kernel(const __grid_constant__ GramTable table,
                    DeviceAccumulator<T>* __restrict__ partial,  // of all layers
                    uint32_t* __restrict__ arrivals,             // (arrival_count)
                    uint32_t arrival_count) {
  if (blockIdx.x == 0) {
    for (uint32_t i = threadIdx.x; i < arrival_count; i += kThreads) arrivals[i] = 0;
  }
  PO_SHARED(GramJob<T>, job);
  const Interleaving::Item item = table.items.item(blockIdx.x);
  if (threadIdx.x == 0) job = gram_job<T>(table.layers[item.layer], item.index, partial);
  __syncthreads();  // the job is there
  if (table.layers[item.layer].nhwc) {
    sum_tile<T, true>(job);
  } else {
    sum_tile<T, false>(job);
  }
}

}  // namespace perceptual_ops
