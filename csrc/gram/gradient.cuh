// The gradient of Gram matrices with respect to the maps: dX = grad[n] * S X for all layers in one launch.
//
// A block makes 128 channels x 128 pixels of a sample, of maps of up to 64 channels 64 x 256. Neighbours in memory are
// columns of its product, pixels in NCHW (S X) and channels in NHWC (X^T S), so that both are read and written as they
// lie. 16-bit maps are multiplied with S in their own dtype, each row brought to about 1 by a power of two
// (narrow_kernel) that is undone in fp32; fp32 maps as in the Gram.
//
// Targets: 256 threads, registers and shared memory as the Gram's. Pipeline stages hold two panels of each operand, or
// of a narrow map one of S and four of X, which leaves room for two stages instead of three.
#pragma once

#include "../common/shared.cuh"
#include "plan.h"
#include "product.cuh"

namespace perceptual_ops {

struct GradientLayer {
  const void* x;  // (N, C, P), strides of `map`
  FeatureMap map;
  void* dx;  // (N, C, P), strides of `dx_map`, its layout that of x
  FeatureMap dx_map;
  bool nhwc;
  bool x_aligned, dx_aligned, s_aligned;
  const void* s;        // (N, C, pitch): S, in the maps' dtype
  int64_t s_pitch;      // elements from row to row
  const void* s_scale;  // (N, C) fp32 that each row of S is still to be multiplied by; null for fp32 and fp64
  uint32_t channel_tiles, pixel_tiles;
};

struct GradientTable {
  Interleaving items;  // of a layer: (N, pixel tiles, channel tiles)
  GradientLayer layers[kMaxLayers];
};

// Where a warp's 64 x 32 results begin in those of the block.
struct WarpResults {
  int row, column;
};

// The rows and columns of a block's product, in panels, and the stages that its shared memory holds.
template <bool kNhwc>
struct GradientShape {
  bool narrow;

  __device__ __forceinline__ int a_panels() const { return narrow ? (kNhwc ? 4 : 1) : 2; }
  __device__ __forceinline__ int b_panels() const { return narrow ? (kNhwc ? 1 : 4) : 2; }
  __device__ __forceinline__ int stage_panels() const { return narrow ? 5 : 4; }
  __device__ __forceinline__ int stages() const { return narrow ? 2 : 3; }
  __device__ __forceinline__ WarpResults warp_results() const {
    const int warp = threadIdx.x / 32, along = b_panels() * (kPanelRows / kWarpColumns);
    return {warp / along * kWarpRows, warp % along * kWarpColumns};
  }
};
static_assert(2 * 5 <= kPanels && 3 * 4 <= kPanels, "the stages fit the shared memory");

// What is done to every result on its way out.
template <class T>
struct ResultWriter {
  using Acc = DeviceAccumulator<T>;
  T* dx;
  int64_t row_stride;  // neighbours in a row are 1 apart
  int rows, columns;   // of the whole sample
  bool dx_aligned;
  const float* scale;  // of the rows, or of the columns
  bool scale_rows;
  Acc upstream;

  // kUnit results of row `row`, from column `column` on.
  __device__ __forceinline__ void store(int row, int column, const Acc (&results)[kUnit<T>]) const {
    const int count = min(columns - column, kUnit<T>);
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kUnit<T>; ++i) {
      Acc value = results[i];
      if (scale != nullptr && i < count) value *= scale[scale_rows ? row : column + i];
      out.values[i] = narrow<T>(upstream * value);
    }
    T* to = dx + row * row_stride + column;
    if (count == kUnit<T> && dx_aligned) {
      store_pack(to, out);
    } else {
#pragma unroll
      for (int i = 0; i < kUnit<T>; ++i) {
        if (i < count) to[i] = out.values[i];
      }
    }
  }
};

// The epilogue: brings 16 rows of a warp's results at a time to the lanes in the order of memory, and out.
template <class T>
__device__ __forceinline__ void store_totals(const ResultWriter<T>& writer, int first_row, int first_column,
                                             const Totals<T>& totals, unsigned char* shared) {
  using Acc = DeviceAccumulator<T>;
  constexpr int kPitch = kWarpColumns + 8;  // moves the rows that are written together to different banks
  constexpr int kRowUnits = kWarpColumns / kUnit<T>;
  Acc* rows = reinterpret_cast<Acc*>(shared) + threadIdx.x / 32 * 16 * kPitch;
#pragma unroll
  for (int i = 0; i < kRowBlocks; ++i) {
    __syncwarp();  // the rows before are read
#pragma unroll
    for (int j = 0; j < kColumnBlocks; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        rows[(lane_index() / 4 + e / 2 * 8) * kPitch + 8 * j + lane_index() % 4 * 2 + e % 2] = totals[i][j][e];
      }
    }
    __syncwarp();  // the rows are there
#pragma unroll 1
    for (int unit = lane_index(); unit < 16 * kRowUnits; unit += 32) {
      const int row = unit / kRowUnits, column = unit % kRowUnits * kUnit<T>;
      if (first_row + 16 * i + row >= writer.rows || first_column + column >= writer.columns) continue;
      Acc results[kUnit<T>];
#pragma unroll
      for (int k = 0; k < kUnit<T>; ++k) results[k] = rows[row * kPitch + column + k];
      writer.store(first_row + 16 * i + row, first_column + column, results);
    }
  }
}

// What the threads of a block share: in shared memory, because registers are for the totals.
template <class T>
struct GradientJob {
  Matrix<T> s, x;
  int first_row, first_column;
  bool nhwc;
  ResultWriter<T> writer;

  __device__ __forceinline__ int stages() const { return (s.rows + kDepth<T> - 1) / kDepth<T>; }
};

template <bool kNhwc, class T>
__device__ __forceinline__ void plan_gradient_job(const GradientTable& table, const Interleaving::Item& place,
                                                  const DeviceAccumulator<T>* __restrict__ grad, GradientJob<T>& job) {
  const GradientLayer& layer = table.layers[place.layer];
  const uint32_t item = place.index;
  const FeatureMap &map = layer.map, &dx_map = layer.dx_map;
  const uint32_t items = layer.channel_tiles * layer.pixel_tiles;
  const int64_t n = item / items;
  const auto line_stride = [](const FeatureMap& of) { return kNhwc ? of.stride_p : of.stride_c; };
  const int channels = static_cast<int>(map.channels);
  const int pixels = static_cast<int>(map.pixels);
  const int channel_tile = item % layer.channel_tiles, pixel_tile = item % items / layer.channel_tiles;
  const GradientShape<kNhwc> shape{channels <= kNarrow};
  const T* x = static_cast<const T*>(layer.x) + n * map.stride_n;
  job.s = Matrix<T>{static_cast<const T*>(layer.s) + n * channels * layer.s_pitch, layer.s_pitch, channels,
                    layer.s_aligned};
  job.x = Matrix<T>{x, line_stride(map), pixels, layer.x_aligned};
  job.first_row = (kNhwc ? pixel_tile : channel_tile) * shape.a_panels() * kPanelRows;
  job.first_column = (kNhwc ? channel_tile : pixel_tile) * shape.b_panels() * kPanelRows;
  job.nhwc = kNhwc;
  job.writer =
      ResultWriter<T>{static_cast<T*>(layer.dx) + n * dx_map.stride_n,
                      line_stride(dx_map),
                      kNhwc ? pixels : channels,
                      kNhwc ? channels : pixels,
                      layer.dx_aligned,
                      layer.s_scale == nullptr ? nullptr : static_cast<const float*>(layer.s_scale) + n * channels,
                      !kNhwc,
                      grad == nullptr ? DeviceAccumulator<T>(1) : grad[n]};
}

// Depth is the channels that S X sums over.
template <bool kNhwc, class T>
__device__ __forceinline__ void fill_stage(const GradientJob<T>& job, const GradientShape<kNhwc>& shape, int stage,
                                           unsigned char* shared) {
  unsigned char* to = shared + stage % shape.stages() * shape.stage_panels() * kPanelBytes;
#pragma unroll 1
  for (int panel = 0; panel < shape.stage_panels(); ++panel, to += kPanelBytes) {
    const bool is_a = panel < shape.a_panels();
    const int row =
        is_a ? job.first_row + panel * kPanelRows : job.first_column + (panel - shape.a_panels()) * kPanelRows;
    if (is_a == kNhwc) {
      fill_panel<kNhwc>(job.x, row, stage * kDepth<T>, job.s.rows, to);
    } else {
      fill_panel<true>(job.s, row, stage * kDepth<T>, job.s.rows, to);
    }
  }
}

template <class T, bool kNhwc>
__device__ __forceinline__ void gradient_tile(const GradientJob<T>& job) {
  using Parts = WarpResults[kThreads / 32];
  PO_DYNAMIC_SHARED(shared);
  PO_SHARED(Parts, parts);  // for the same reason as the job
  const WarpResults& part = parts[threadIdx.x / 32];
  const GradientShape<kNhwc> shape{job.s.rows <= kNarrow};
  if (lane_index() == 0) parts[threadIdx.x / 32] = shape.warp_results();
  __syncwarp();  // the part is there
  Totals<T> totals = {};
  // The prologue fills the pipeline, then comes the main loop.
#pragma unroll 1
  for (int stage = 0; stage < shape.stages() - 1; ++stage) {
    if (stage < job.stages()) fill_stage(job, shape, stage, shared);
    commit_copies();
  }
#pragma unroll 1
  for (int stage = 0; stage < job.stages(); ++stage) {
    if (shape.narrow) {
      wait_copies<0>();
    } else {
      wait_copies<1>();
    }
    __syncthreads();  // this stage is whole, and the one before it is read
    if (stage + shape.stages() - 1 < job.stages()) fill_stage(job, shape, stage + shape.stages() - 1, shared);
    commit_copies();
    const unsigned char* a = shared + stage % shape.stages() * shape.stage_panels() * kPanelBytes;
    const unsigned char* b = a + shape.a_panels() * kPanelBytes;
    PanelProduct<T, true, kNhwc>::add(a + part.row / kPanelRows * kPanelBytes,
                                      b + part.column / kPanelRows * kPanelBytes, part.column % kPanelRows, Cover::kAll,
                                      totals);
  }
  __syncthreads();  // the last stage is read, its memory now serves the results
  store_totals(job.writer, job.first_row + part.row, job.first_column + part.column, totals, shared);
}

// Grid: the items of the table.
template <class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 2 : 1)
    gram_gradient_kernel(const __grid_constant__ GradientTable table,
                         const DeviceAccumulator<T>* __restrict__ grad) {  // (N), or null for ones
  PO_SHARED(GradientJob<T>, job);
  const Interleaving::Item item = table.items.item(blockIdx.x);
  if (threadIdx.x == 0) {
    if (table.layers[item.layer].nhwc) {
      plan_gradient_job<true>(table, item, grad, job);
    } else {
      plan_gradient_job<false>(table, item, grad, job);
    }
  }
  __syncthreads();  // the job is there
  if (job.nhwc) {
    gradient_tile<T, true>(job);
  } else {
    gradient_tile<T, false>(job);
  }
}

}  // namespace perceptual_ops
