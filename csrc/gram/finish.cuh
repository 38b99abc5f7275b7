// Stream-K reduction and epilogue of Gram matrices: the partial sums of a tile's pieces are added in order and both
// triangles stored; for a style loss, the distance to a target and the matrix S of the gradient. All layers and samples
// in one launch, a warp per fragment. The target Gram need not be symmetric, so S = slope * (D + D^T).
//
// The partial sums are unscaled: fp32 holds those of every fp16 map (65504^2 over 2^31 pixels is 1e19), and of bf16 and
// fp32 maps up to about 1e15.
//
// Targets: 256 threads, 64 registers (four blocks per SM; two in fp64). Little work, bound by memory latency.
#pragma once

#include "../common/last_block.cuh"
#include "../common/reduce.cuh"
#include "../common/vec.cuh"
#include "panel.cuh"
#include "plan.h"

namespace perceptual_ops {

constexpr int kFinishWarps = kThreads / kWarp;  // fragments of a block
template <class Acc>
constexpr int kFinishBlocks = sizeof(Acc) == 4 ? 4 : 2;

struct FinishLayer {
  int64_t channels;
  int64_t partial;       // where the layer's partial sums begin: (partials, fragments of a tile, 16 * 8)
  uint32_t first_block;  // of a sample's
  double scale;          // of the sum over the pixels
  void* out;             // (N, C, C): the Gram, or S
  // Of a style loss only.
  const void* target;     // (N or 1, C, C)
  int64_t target_stride;  // elements; 0 where one stands for all
  double slope_scale;     // of S
  double value_scale;     // of the sum of distances
  double weight;          // of the layer in the loss
};

struct FinishTable {
  StageList stages;  // of gram_sum_kernel
  uint32_t blocks;   // of a sample
  int64_t batch;
  FinishLayer entries[kMaxLayers];
};

// A lane's elements of a fragment, two in each of two rows, and their position in the matrix.
template <class Acc>
struct FragmentSums {
  Acc values[4];
  int64_t row, column;  // of the first; the others: column + 1, row + 8, both

  __device__ __forceinline__ int64_t row_of(int e) const { return row + e / 2 * 8; }
  __device__ __forceinline__ int64_t column_of(int e) const { return column + e % 2; }
  // On or below the diagonal, in the matrix.
  __device__ __forceinline__ bool holds(int e, int64_t channels) const {
    return column_of(e) <= row_of(e) && row_of(e) < channels;
  }
};

struct FinishPlace {
  int layer;
  int64_t n;
  uint32_t fragment;  // of the sample's
};

__device__ __forceinline__ FinishPlace finish_place(const FinishTable& table) {
  const uint32_t block = blockIdx.x % table.blocks;
  int layer = 0;
  while (layer + 1 < table.stages.layers && table.entries[layer + 1].first_block <= block) ++layer;
  const uint32_t first = (block - table.entries[layer].first_block) * kFinishWarps;
  return {layer, int64_t(blockIdx.x / table.blocks), first + threadIdx.x / kWarp};
}

// Reduces fragment `place.fragment` over the pieces of its tile. Holds no element if the matrix has no such fragment.
template <class Acc>
__device__ __forceinline__ FragmentSums<Acc> sum_pieces(const FinishTable& table, const FinishPlace& place,
                                                        const Acc* __restrict__ partial) {
  const FinishLayer& layer = table.entries[place.layer];
  const int lane = threadIdx.x % kWarp;
  FragmentSums<Acc> sums{{}, layer.channels, 0};
  if (place.fragment >= triangle_fragments(layer.channels)) return sums;

  const TriangleNumbers fragments = fragment_numbers(layer.channels);
  const Tile tile = fragments.tile_of(place.fragment);
  const int inner = static_cast<int>(place.fragment - fragments.first_of(tile));
  int row = inner / (kTile / kFragmentColumns), column = inner % (kTile / kFragmentColumns);
  if (tile.row == tile.column) {
    for (row = 0; (row + 1) * (row + 2) <= inner;) ++row;
    column = inner - row * (row + 1);
  }
  const int64_t first_row = int64_t(tile.row) * kTile + row * kFragmentRows;
  const int64_t first_column = int64_t(tile.column) * kTile + column * kFragmentColumns;
  if (first_row >= layer.channels || first_column >= layer.channels) return sums;

  sums.row = first_row + lane / 4;
  sums.column = first_column + lane % 4 * 2;
  const Partials partials = table.stages.partials(place.layer, static_cast<uint32_t>(place.n), tile);
  const int64_t stride = tile_fragments(layer.channels) * kFragmentSize;
  const Acc* from = partial + layer.partial + partials.first * stride + inner * kFragmentSize + lane * 4;
  // Reduce.
#pragma unroll 4
  for (uint32_t piece = 0; piece < partials.count; ++piece, from += stride) {
#pragma unroll
    for (int e = 0; e < 4; e += kUnit<Acc>) {
      const Pack<Acc> pack = load_pack(from + e);
#pragma unroll
      for (int k = 0; k < kUnit<Acc>; ++k) sums.values[e + k] += pack.values[k];
    }
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) sums.values[e] *= Acc(layer.scale);
  return sums;
}

// Grid: N * the table's blocks.
template <class Acc>
__global__ void __launch_bounds__(kThreads, kFinishBlocks<Acc>)
    gram_finish_kernel(const __grid_constant__ FinishTable table, const Acc* __restrict__ partial) {
  const FinishPlace place = finish_place(table);
  const FinishLayer& layer = table.entries[place.layer];
  const FragmentSums<Acc> sums = sum_pieces(table, place, partial);
  Acc* gram = static_cast<Acc*>(layer.out) + place.n * layer.channels * layer.channels;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (!sums.holds(e, layer.channels)) continue;
    gram[sums.row_of(e) * layer.channels + sums.column_of(e)] = sums.values[e];
    gram[sums.column_of(e) * layer.channels + sums.row_of(e)] = sums.values[e];
  }
}

// Reduces the blocks' distances of sample n to values[l, n], and these to loss[n]. Called by one block.
template <class Acc>
__device__ __forceinline__ void style_values(const FinishTable& table, int64_t n, bool first_layers,
                                             const Acc* __restrict__ slots,  // (blocks), of the sample
                                             Acc* __restrict__ values,       // (layers, N)
                                             Acc* __restrict__ loss) {       // (N)
  using LayerValues = Acc[kMaxLayers];
  PO_SHARED(LayerValues, weighted);
  const int lane = threadIdx.x % kWarp;
  for (int l = threadIdx.x / kWarp; l < table.stages.layers; l += kFinishWarps) {
    const FinishLayer& layer = table.entries[l];
    const uint32_t end = l + 1 < table.stages.layers ? table.entries[l + 1].first_block : table.blocks;
    Acc sum = 0;
    for (uint32_t block = layer.first_block + lane; block < end; block += kWarp) sum += slots[block];
    sum = Acc(layer.value_scale) * warp_sum(sum);
    if (lane == 0) {
      values[l * table.batch + n] = sum;
      weighted[l] = Acc(layer.weight) * sum;
    }
  }
  __syncthreads();  // every layer's value is there
  if (threadIdx.x > 0) return;
  Acc sum = first_layers ? Acc(0) : loss[n];
  for (int l = 0; l < table.stages.layers; ++l) sum += weighted[l];
  loss[n] = sum;
}

// Grid: N * the table's blocks.
template <class Acc, Distance kDistance>
__global__ void __launch_bounds__(kThreads, kFinishBlocks<Acc>)
    style_finish_kernel(const __grid_constant__ FinishTable table, Acc parameter, bool first_layers,
                        const Acc* __restrict__ partial,
                        Acc* slots,                       // (N, blocks), scratch
                        uint32_t* __restrict__ arrivals,  // (N), zeros
                        Acc* __restrict__ values,         // (layers, N)
                        Acc* __restrict__ loss) {         // (N)
  const FinishPlace place = finish_place(table);
  const FinishLayer& layer = table.entries[place.layer];
  const FragmentSums<Acc> sums = sum_pieces(table, place, partial);
  const Acc* target = static_cast<const Acc*>(layer.target) + place.n * layer.target_stride;
  Acc* slopes = static_cast<Acc*>(layer.out) + place.n * layer.channels * layer.channels;
  Acc distance = 0;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (!sums.holds(e, layer.channels)) continue;
    const int64_t here = sums.row_of(e) * layer.channels + sums.column_of(e);
    const int64_t mirrored = sums.column_of(e) * layer.channels + sums.row_of(e);
    const Point<Acc> at = distance_at<kDistance>(sums.values[e] - target[here], parameter);
    const Point<Acc> across = distance_at<kDistance>(sums.values[e] - target[mirrored], parameter);
    distance += here == mirrored ? at.value : at.value + across.value;
    slopes[here] = slopes[mirrored] = Acc(layer.slope_scale) * (at.slope + across.slope);
  }
  // Reduce over the blocks of the sample.
  distance = block_sum<kThreads>(distance);
  if (threadIdx.x == 0) slots[blockIdx.x] = distance;
  if (!arrives_last(arrivals + place.n, table.blocks)) return;
  style_values(table, place.n, first_layers, slots + place.n * table.blocks, values, loss);
}

}  // namespace perceptual_ops
