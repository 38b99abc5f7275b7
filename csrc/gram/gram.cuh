// Stream-K kernel of Gram matrices: partial sums of X X^T, for all layers and samples in one launch.
//
// Stream-K (plan.h): a block has a run of pipeline stages, which may start within one tile and end within another. It
// writes partial sums for each piece of a tile; finish.cuh reduces them. A stage of the software pipeline (cp.async)
// has four panels: for an off-diagonal tile, two of its rows and two of its columns; for a diagonal tile, where they
// are the same, two of one depth and two of the next; for a narrow map (up to 64 channels), four depths of its one
// panel, each multiplied by two warps of its own (sliced-K). So every stage moves 32 KB and costs about the same. In a
// diagonal tile warps compute only the halves of their parts that reach the lower triangle, and store only those
// fragments.
//
// Targets: 256 threads. 16-bit maps: 128 registers, so that two blocks share an SM with 200 KB or more (sm_90, sm_100;
// elsewhere one fits) and one multiplies during the other's prologue or epilogue; fp32 holds both parts of its
// operands, fp64 its 64 totals, in up to 255 registers of one block. 96 KB of shared memory in three stages, two of
// them in flight: 64 KB, twice what an SM of the H200 needs in flight to saturate memory bandwidth.
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
  int64_t partial;  // where the layer's partial sums begin: (partials, fragments of a tile, 16 * 8)
};

struct GramTable {
  StageList stages;
  GramLayer layers[kMaxLayers];
};

constexpr int kStagePanels = 4;
constexpr int kPipelineStages = kPanels / kStagePanels;
template <class T>
constexpr int kBlocksPerSm = sizeof(T) == 2 ? 2 : 1;

// The 64 x 32 part of a tile that a warp computes.
struct WarpPart {
  int row, column;          // first, in the tile
  int first_chunk, chunks;  // depths (panels along the pixels) of a stage
  RowHalves halves;
  bool idle;
};

// Of a diagonal tile's eight parts two are empty and two are half. Pairs of warps that share a scheduler of the SM get
// about equal work: 16 + 0, 16 + 0, 16 + 8 and 16 + 8 fragments; 16 + 8 each for a narrow map.
__device__ __forceinline__ WarpPart warp_part(bool narrow, bool diagonal, int rows_left, int columns_left) {
  constexpr uint32_t kParts = 0x71326054;  // part of each warp: 4 * (64 rows) + (32 columns)
  const int warp = fresh_thread_index() / 32;
  WarpPart part;
  if (narrow) {
    part = {0, ((warp & 1) ^ (warp >> 2)) * kWarpColumns, warp / 2, 1, {true, true}, false};
  } else {
    const int number = kParts >> (4 * warp) & 7;
    part = {number / 4 * kWarpRows, number % 4 * kWarpColumns, 0, diagonal ? 2 : 1, {true, true}, false};
  }
  const int below = part.row - part.column;  // the part's first corner, below the diagonal
  part.halves = {!diagonal || below >= 0, part.row + kWarpRows / 2 < rows_left};
  part.idle = (diagonal && below < -kWarpColumns) || part.row >= rows_left || part.column >= columns_left;
  return part;
}

// Sliced-K reduction of a narrow map: adds the totals of the four pairs of warps, in order, into the first pair.
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
#pragma unroll
  for (int i = 0; i < kRowBlocks; ++i) {
#pragma unroll
    for (int j = 0; j < kColumnBlocks; ++j) {
      const int row = part.row / kFragmentRows + i, column = part.column / kFragmentColumns + j;
      if (diagonal && column > 2 * row + 1) continue;  // above the diagonal
      if (row * kFragmentRows >= rows_left || column * kFragmentColumns >= columns_left) continue;
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

// The first element of a panel of a stage.
struct PanelPlace {
  int row, depth;  // of the matrix, from the stage's first
};

// State of a block, in shared memory, because the registers are taken by the totals.
template <class T>
struct GramJob {
  Matrix<T> x;  // from the piece's first pixel on
  int pixels;
  bool nhwc;
  int first_row, first_column;    // of the tile
  int chunk_panels;               // per depth of a stage: 1, 2 or 4
  uint32_t next, end;             // stages of the list: after this piece, after this block's run
  int stage_pixels, stages;       // the last may have fewer pixels; no stages: the run is at its end
  DeviceAccumulator<T>* partial;  // (fragments, 16 * 8), of the tile

  PanelPlace panels[kStagePanels];
  int whole_stages;                   // stages without bounds checks, which come first; 0 if not aligned
  const T* pairs[kStagePanels / 2];   // first elements of panels 0 and 2 of stage 0
  int64_t pair_stride, stage_stride;  // elements from a panel to the next of its pair, from a stage to the next

  __device__ __forceinline__ bool narrow() const { return chunk_panels == 1; }
  __device__ __forceinline__ bool diagonal() const { return chunk_panels < 4; }
  __device__ __forceinline__ int rows_left() const { return x.rows - first_row; }
  __device__ __forceinline__ int columns_left() const { return x.rows - first_column; }
};

// Plans the next piece of the block's run. Called by one thread.
template <class T>
__device__ __forceinline__ void plan_piece(const GramTable& table,
                                           DeviceAccumulator<T>* partial,  // of all layers
                                           GramJob<T>& job) {
  job.stages = 0;
  if (job.next >= job.end) return;
  const Piece piece = table.stages.piece(job.next);
  const GramLayer& layer = table.layers[piece.layer];
  const FeatureMap& map = layer.map;
  const Tile tile = piece.tile;
  const int channels = static_cast<int>(map.channels);
  const bool narrow = channels <= kNarrow;
  job.next += piece.count;
  job.stages = static_cast<int>(piece.count);
  job.chunk_panels = kStagePanels / stage_stretches(channels, tile);
  job.stage_pixels = kStagePanels / job.chunk_panels * kDepth<T>;
  const int64_t begin = int64_t(piece.first) * job.stage_pixels;
  job.pixels = static_cast<int>(min(map.pixels - begin, int64_t(piece.count) * job.stage_pixels));
  job.x = {static_cast<const T*>(layer.x) + piece.n * map.stride_n + begin * map.stride_p,
           layer.nhwc ? map.stride_p : map.stride_c, channels, layer.aligned};
  job.nhwc = layer.nhwc;
  job.first_row = tile.row * kTile;
  job.first_column = tile.column * kTile;
  job.partial = partial + layer.partial + piece.partial * tile_fragments(channels) * kFragmentSize;

  for (int panel = 0; panel < kStagePanels; ++panel) {
    const int chunk = panel / job.chunk_panels, place = panel % job.chunk_panels;
    job.panels[panel] = {(place < 2 ? job.first_row : job.first_column) + place % 2 * kPanelRows, chunk * kDepth<T>};
  }
  const int64_t depth_stride = layer.nhwc ? map.stride_p : 1, row_stride = layer.nhwc ? 1 : map.stride_c;
  const auto first_of = [&](const PanelPlace& panel) {
    return job.x.data + panel.row * row_stride + panel.depth * depth_stride;
  };
  job.pairs[0] = first_of(job.panels[0]);
  job.pairs[1] = first_of(job.panels[2]);
  job.pair_stride = first_of(job.panels[1]) - job.pairs[0];
  job.stage_stride = job.stage_pixels * depth_stride;
  const bool whole = layer.aligned && job.first_row + (narrow ? kNarrow : kTile) <= channels;
  job.whole_stages = whole ? job.pixels / job.stage_pixels : 0;
}

template <bool kNhwc, class T>
__device__ __forceinline__ void fill_stage(const GramJob<T>& job, int stage, unsigned char* shared) {
  unsigned char* to = shared + stage % kPipelineStages * kStagePanels * kPanelBytes;
  if (stage < job.whole_stages) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair, to += 2 * kPanelBytes) {
      fill_whole_panels<2, !kNhwc>(job.pairs[pair] + stage * job.stage_stride, job.x.line_stride, job.pair_stride, to);
    }
    return;
  }
#pragma unroll 1
  for (int panel = 0; panel < kStagePanels; ++panel, to += kPanelBytes) {
    const PanelPlace place = job.panels[panel];
    fill_panel<!kNhwc>(job.x, place.row, stage * job.stage_pixels + place.depth, job.pixels, to);
  }
}

template <class T, bool kNhwc>
__device__ __forceinline__ void sum_tile(const GramJob<T>& job) {
  using Parts = WarpPart[kThreads / 32];
  PO_DYNAMIC_SHARED(shared);
  PO_SHARED(Parts, parts);  // for the same reason as the job
  WarpPart& part = parts[fresh_thread_index() / 32];
  // Read from stage 0 on, behind its barrier.
  if (lane_index() == 0) part = warp_part(job.narrow(), job.diagonal(), job.rows_left(), job.columns_left());
  Totals<T> totals = {};
  // Main loop: load a stage, multiply an earlier one. Before stage 0 it is the prologue, which only fills the pipeline.
#pragma unroll 1
  for (int stage = 1 - kPipelineStages; stage < job.stages; ++stage) {
    if (stage >= 0) {
      wait_copies<kPipelineStages - 2>();
      __syncthreads();  // this stage is whole, and the one before it is read
    }
    // Load.
    if (stage + kPipelineStages - 1 < job.stages) fill_stage<kNhwc>(job, stage + kPipelineStages - 1, shared);
    commit_copies();
    if (stage < 0 || part.idle) continue;
    // Multiply.
    const int first_panel = stage % kPipelineStages * kStagePanels;
#pragma unroll 1
    for (int chunk = part.first_chunk; chunk < part.first_chunk + part.chunks; ++chunk) {
      const int here = first_panel + chunk * job.chunk_panels;
      const int a_panel = here + part.row / kPanelRows,
                b_panel = here + part.column / kPanelRows + (job.diagonal() ? 0 : 2);
      PanelProduct<T, !kNhwc, !kNhwc>::add(shared, a_panel * kPanelBytes, b_panel * kPanelBytes,
                                           part.column % kPanelRows, part.halves, totals);
    }
  }

  // Epilogue: reduce over sliced-K, store the fragments.
  if (job.narrow()) add_chunks<T>(part, shared, totals);
  if (part.idle || part.first_chunk > 0) return;
  store_fragments<T>(part, job.diagonal(), job.rows_left(), job.columns_left(), totals, job.partial);
}

// Grid: the table's blocks. The first launch of a sum also clears the arrival counters of its finish.
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
  if (threadIdx.x == 0) {
    job.next = table.stages.run_of(blockIdx.x) * table.stages.run_stages;
    job.end = min(job.next + table.stages.run_stages, table.stages.stages);
  }
  for (;;) {
    if (threadIdx.x == 0) plan_piece(table, partial, job);
    __syncthreads();  // the job is there
    if (job.stages == 0) return;
    if (job.nhwc) {
      sum_tile<T, true>(job);
    } else {
      sum_tile<T, false>(job);
    }
    __syncthreads();  // the job is done
  }
}

}  // namespace perceptual_ops
