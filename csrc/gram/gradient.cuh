// The gradient of Gram matrices with respect to the maps: dX = grad[n] * S X + other, for all layers in one launch.
//
// A block computes a tile of 128 channels x 128 pixels of a sample, 64 x 256 for narrow maps. The contiguous axis is
// the column of its product: pixels in NCHW (S X), channels in NHWC (X^T S), so that loads and stores are coalesced in
// both layouts. 16-bit maps are multiplied by S in their own dtype, each row scaled to about 1 by a power of two
// (narrow_kernel), which is undone in fp32; fp32 maps as in the Gram.
//
// Targets: 256 threads, registers and shared memory as in gram.cuh. A pipeline stage holds two panels of each operand;
// for a narrow map one of S and four of X, which leaves two stages instead of three.
#pragma once

#include "../common/shared.cuh"
#include "plan.h"
#include "product.cuh"
#include "results.cuh"

namespace perceptual_ops {

struct GradientLayer {
  const void* x;  // (N, C, P), strides of `map`
  FeatureMap map;
  void* dx;  // (N, C, P), strides of `dx_map`, its layout that of x
  FeatureMap dx_map;
  const void* other;  // (N, C, P), strides of other_map, in the layout of x: added to dx; or null
  FeatureMap other_map;
  bool nhwc;
  bool x_aligned, dx_aligned, other_aligned, s_aligned;
  const void* s;        // (N, C, pitch): S, in the maps' dtype
  int64_t s_pitch;      // elements from row to row
  const void* s_scale;  // (N, C) fp32, factors of the rows of S; null for fp32 and fp64
  uint32_t channel_tiles, pixel_tiles;
};

struct GradientTable {
  Interleaving items;  // of a layer: (N, pixel tiles, channel tiles)
  GradientLayer layers[kMaxLayers];
};

// Offset of a warp's 64 x 32 results in the block's tile.
struct WarpResults {
  int row, column;
};

// Shape of a block's product: rows (A) and columns (B), in panels of channels (of S) and of pixels (of X).
template <bool kNhwc, bool kIsNarrow>
struct GradientShape {
  static constexpr int kChannelPanels = kIsNarrow ? 1 : 2, kPixelPanels = kIsNarrow ? 4 : 2;
  static constexpr int kAPanels = kNhwc ? kPixelPanels : kChannelPanels;
  static constexpr int kBPanels = kNhwc ? kChannelPanels : kPixelPanels;
  static constexpr int kStagePanels = kAPanels + kBPanels;        // those of A first
  static constexpr int kPipelineStages = kPanels / kStagePanels;  // depth of the software pipeline
  static constexpr int kFirstOfS = kNhwc ? kPixelPanels : 0;      // panel of a stage
  static constexpr int kFirstOfX = kNhwc ? 0 : kChannelPanels;

  static __device__ __forceinline__ WarpResults warp_results() {
    constexpr int kAlong = kBPanels * (kPanelRows / kWarpColumns);
    const int warp = fresh_thread_index() / 32;
    return {warp / kAlong * kWarpRows, warp % kAlong * kWarpColumns};
  }
};

// State of a block, in shared memory, because the registers are taken by the totals.
template <class T>
struct GradientJob {
  Matrix<T> s, x;
  int first_channel, first_pixel;
  bool nhwc, narrow;
  bool whole;                  // no stage needs bounds checks
  const T *first_s, *first_x;  // first elements of the first panels
  ResultWriter<T> writer;
  const float* scale;                            // of the sample's channels, or null
  const DeviceAccumulator<T>* grad;              // of the sample, or null
  DeviceAccumulator<T> factors[2 * kPanelRows];  // of the results, by the block's channels

  __device__ __forceinline__ int stages() const { return (s.rows + kDepth<T> - 1) / kDepth<T>; }
};

// Called by one thread.
template <class T>
__device__ __forceinline__ void plan_gradient_job(const GradientLayer& layer, uint32_t item,
                                                  const DeviceAccumulator<T>* __restrict__ grad, GradientJob<T>& job) {
  const FeatureMap &map = layer.map, &dx_map = layer.dx_map;
  const uint32_t items = layer.channel_tiles * layer.pixel_tiles;
  const int64_t n = item / items;
  const int channels = static_cast<int>(map.channels), pixels = static_cast<int>(map.pixels);
  const bool nhwc = layer.nhwc, narrow = channels <= kNarrow;
  const int tile_channels = (narrow ? 1 : 2) * kPanelRows, tile_pixels = (narrow ? 4 : 2) * kPanelRows;
  const auto line_stride = [&](const FeatureMap& of) { return nhwc ? of.stride_p : of.stride_c; };
  const T* x = static_cast<const T*>(layer.x) + n * map.stride_n;
  job.s = {static_cast<const T*>(layer.s) + n * channels * layer.s_pitch, layer.s_pitch, channels, layer.s_aligned};
  job.x = {x, line_stride(map), pixels, layer.x_aligned};
  job.first_channel = static_cast<int>(item % layer.channel_tiles) * tile_channels;
  job.first_pixel = static_cast<int>(item % items / layer.channel_tiles) * tile_pixels;
  job.nhwc = nhwc;
  job.narrow = narrow;
  job.whole = layer.x_aligned && layer.s_aligned && channels % kDepth<T> == 0 &&
              job.first_channel + tile_channels <= channels && job.first_pixel + tile_pixels <= pixels;
  job.first_s = job.s.data + job.first_channel * layer.s_pitch;
  job.first_x = x + job.first_pixel * map.stride_p;
  job.writer = {static_cast<T*>(layer.dx) + n * dx_map.stride_n,
                line_stride(dx_map),
                nhwc ? pixels : channels,
                nhwc ? channels : pixels,
                layer.dx_aligned,
                {}};
  if (layer.other != nullptr) {
    job.writer.other = {static_cast<const T*>(layer.other) + n * layer.other_map.stride_n, line_stride(layer.other_map),
                        job.writer.rows, layer.other_aligned};
  }
  job.scale = layer.s_scale == nullptr ? nullptr : static_cast<const float*>(layer.s_scale) + n * channels;
  job.grad = grad == nullptr ? nullptr : grad + n;
}

// Depth is the channels that S X sums over.
template <bool kNhwc, class Shape, class T>
__device__ __forceinline__ void fill_stage(const GradientJob<T>& job, int stage, unsigned char* shared) {
  unsigned char* to = shared + stage % Shape::kPipelineStages * Shape::kStagePanels * kPanelBytes;
  unsigned char *s_panels = to + Shape::kFirstOfS * kPanelBytes, *x_panels = to + Shape::kFirstOfX * kPanelBytes;
  const int depth = stage * kDepth<T>;
  if (job.whole) {
    const int64_t s_stride = job.s.line_stride, x_stride = job.x.line_stride;
    fill_whole_panels<Shape::kChannelPanels, true>(job.first_s + depth, s_stride, kPanelRows * s_stride, s_panels);
    fill_whole_panels<Shape::kPixelPanels, kNhwc>(job.first_x + depth * (kNhwc ? 1 : x_stride), x_stride,
                                                  kPanelRows * (kNhwc ? x_stride : 1), x_panels);
    return;
  }
#pragma unroll 1
  for (int panel = 0; panel < Shape::kChannelPanels; ++panel, s_panels += kPanelBytes) {
    fill_panel<true>(job.s, job.first_channel + panel * kPanelRows, depth, job.s.rows, s_panels);
  }
#pragma unroll 1
  for (int panel = 0; panel < Shape::kPixelPanels; ++panel, x_panels += kPanelBytes) {
    fill_panel<kNhwc>(job.x, job.first_pixel + panel * kPanelRows, depth, job.s.rows, x_panels);
  }
}

// The upstream gradient times the inverse power of two of a channel's row of S. The order does not matter: powers of
// two multiply exactly.
template <class T>
__device__ __forceinline__ void load_factors(int channels, GradientJob<T>& job) {
  using Acc = DeviceAccumulator<T>;
  const int thread = fresh_thread_index(), channel = job.first_channel + thread;
  if (thread >= channels) return;
  Acc factor = job.grad == nullptr ? Acc(1) : load_pack<Acc, 1>(job.grad).values[0];
  if (job.scale != nullptr && channel < job.s.rows) factor *= load_pack<float, 1>(job.scale + channel).values[0];
  job.factors[thread] = factor;
}

template <bool kNhwc, bool kIsNarrow, class T>
__device__ __forceinline__ void gradient_tile(GradientJob<T>& job) {
  using Shape = GradientShape<kNhwc, kIsNarrow>;
  PO_DYNAMIC_SHARED(shared);
  const int& first_row = kNhwc ? job.first_pixel : job.first_channel;
  const int& first_column = kNhwc ? job.first_channel : job.first_pixel;
  load_factors(Shape::kChannelPanels * kPanelRows, job);
  Totals<T> totals = {};
  // Main loop: load a stage, multiply an earlier one. Before stage 0 it is the prologue, which only fills the pipeline.
#pragma unroll 1
  for (int stage = 1 - Shape::kPipelineStages; stage < job.stages(); ++stage) {
    if (stage >= 0) {
      wait_copies<Shape::kPipelineStages - 2>();
      __syncthreads();  // this stage is whole, and the one before it is read
    }
    // Load.
    const int next = stage + Shape::kPipelineStages - 1;
    if (next < job.stages()) fill_stage<kNhwc, Shape>(job, next, shared);
    commit_copies();
    if (stage < 0) continue;
    // Multiply.
    const WarpResults part = Shape::warp_results();
    const RowHalves halves = {true, first_row + part.row + kWarpRows / 2 < job.writer.rows};
    const int a = stage % Shape::kPipelineStages * Shape::kStagePanels, b = a + Shape::kAPanels;
    PanelProduct<T, true, kNhwc>::add(shared, (a + part.row / kPanelRows) * kPanelBytes,
                                      (b + part.column / kPanelRows) * kPanelBytes, part.column % kPanelRows, halves,
                                      totals);
  }
  __syncthreads();  // the last stage is read, its memory now serves the results
  // Epilogue: scale, add, store.
  const WarpResults part = Shape::warp_results();
  constexpr int kStagedBytes = kSharedBytes / (kThreads / 32);
  const auto store = [&](auto adds) {
    store_totals<kNhwc, decltype(adds)::value>(job.writer, first_row + part.row, first_column + part.column,
                                               job.factors + (kNhwc ? part.column : part.row), totals,
                                               shared + fresh_thread_index() / 32 * kStagedBytes);
  };
  job.writer.other.data == nullptr ? store(std::false_type{}) : store(std::true_type{});
}

// Grid: the items of the table.
template <class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 2 : 1)
    gram_gradient_kernel(const __grid_constant__ GradientTable table,
                         const DeviceAccumulator<T>* __restrict__ grad) {  // (N), or null for ones
  PO_SHARED(GradientJob<T>, job);
  if (threadIdx.x == 0) {
    const Interleaving::Item item = table.items.item(blockIdx.x);
    plan_gradient_job(table.layers[item.layer], item.index, grad, job);
  }
  __syncthreads();  // the job is there
  if (job.nhwc) {
    job.narrow ? gradient_tile<true, true>(job) : gradient_tile<true, false>(job);
  } else {
    job.narrow ? gradient_tile<false, true>(job) : gradient_tile<false, false>(job);
  }
}

}  // namespace perceptual_ops
