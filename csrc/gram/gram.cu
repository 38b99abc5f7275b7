#include <algorithm>

#include "../common/launch.h"
#include "finish.cuh"
#include "gram.cuh"
#include "gram.h"
#include "slopes.cuh"

namespace perceptual_ops {
namespace {

// Blocks of the finish for one sample of one layer.
int64_t finish_blocks(int64_t channels) { return ceil_div(triangle_fragments(channels), kFinishWarps); }

template <class F>
cudaError_t dispatch_accumulator(Element element, F&& f) {
  dispatch_element(element, [&](auto type) { f(DeviceAccumulator<decltype(type)>{}); });
  return cudaGetLastError();
}

// Calls f(first, count) for the layers of each launch.
template <class F>
cudaError_t for_launches(size_t layers, F&& f) {
  for (size_t first = 0; first < layers; first += kMaxLayers) {
    const cudaError_t status = f(first, static_cast<int>(std::min<size_t>(layers - first, kMaxLayers)));
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

// The part of the table that finishing a Gram and a style loss share.
FinishTable finish_table(const std::vector<MapPointer>& layers, const GramWorkspace& workspace, size_t first,
                         int count) {
  FinishTable table{workspace.launches[first / kMaxLayers], 0, layers[first].map.batch, {}};
  for (int l = 0; l < count; ++l) {
    FinishLayer& entry = table.entries[l];
    entry.channels = layers[first + l].map.channels;
    entry.partial = workspace.first[first + l];
    entry.first_block = table.blocks;
    table.blocks += static_cast<uint32_t>(finish_blocks(entry.channels));
  }
  return table;
}

}  // namespace

GramWorkspace plan_gram(Element element, const std::vector<FeatureMap>& layers) {
  GramWorkspace workspace{};
  int64_t blocks = 0;
  for (size_t first = 0; first < layers.size(); first += kMaxLayers) {
    const int count = static_cast<int>(std::min<size_t>(layers.size() - first, kMaxLayers));
    StageList list{};
    if (!plan_stages(&layers[first], count, kLineBytes / element_bytes(element), list)) return {};
    for (int l = 0; l < count; ++l) {
      const FeatureMap& map = layers[first + l];
      workspace.first.push_back(workspace.partial);
      workspace.partial += list.partials(l, map.batch) * tile_fragments(map.channels) * kFragmentSize;
      blocks += finish_blocks(map.channels);
    }
    workspace.launches.push_back(list);
  }
  const int64_t batch = layers.empty() ? 0 : layers[0].batch;
  workspace.slots = blocks * batch;
  workspace.arrivals = ceil_div(layers.size(), kMaxLayers) * batch;
  return workspace;
}

cudaError_t launch_gram_sums(Element element, const std::vector<MapPointer>& layers, const GramWorkspace& workspace,
                             void* partial, void* arrivals, cudaStream_t stream) {
  if (workspace.launches.empty() || !fits_grid(workspace.arrivals)) return cudaErrorInvalidConfiguration;
  return for_launches(layers.size(), [&](size_t first, int count) {
    GramTable table{workspace.launches[first / kMaxLayers], {}};
    for (int l = 0; l < count; ++l) {
      const auto& [x, map] = layers[first + l];
      table.layers[l] = {x, map, map.layout() == Layout::kNHWC, has_aligned_lines(x, map, element_bytes(element)),
                         workspace.first[first + l]};
    }
    dispatch_element(element, [&](auto type) {
      launch_kernel(gram_sum_kernel<decltype(type)>, table.stages.blocks(), kThreads, kSharedBytes, stream, table,
                    partial, arrivals, first == 0 ? workspace.arrivals : 0);
    });
    return cudaGetLastError();
  });
}

cudaError_t launch_gram_finish(Element element, const std::vector<MapPointer>& layers, const GramWorkspace& workspace,
                               const std::vector<GramOutput>& outputs, const void* partial, cudaStream_t stream) {
  return for_launches(layers.size(), [&](size_t first, int count) {
    FinishTable table = finish_table(layers, workspace, first, count);
    if (!fits_grid(table.blocks * table.batch)) return cudaErrorInvalidConfiguration;
    for (int l = 0; l < count; ++l) {
      table.entries[l].scale = outputs[first + l].scale;
      table.entries[l].out = outputs[first + l].gram;
    }
    return dispatch_accumulator(element, [&](auto accumulator) {
      launch_kernel(gram_finish_kernel<decltype(accumulator)>, table.blocks * table.batch, kThreads, 0, stream, table,
                    partial);
    });
  });
}

cudaError_t launch_style_finish(Element element, const std::vector<MapPointer>& layers, const GramWorkspace& workspace,
                                const std::vector<StyleOutput>& outputs, Distance distance, double parameter,
                                const void* partial, void* slots, void* arrivals, void* values, void* loss,
                                cudaStream_t stream) {
  return for_launches(layers.size(), [&](size_t first, int count) {
    FinishTable table = finish_table(layers, workspace, first, count);
    if (!fits_grid(table.blocks * table.batch)) return cudaErrorInvalidConfiguration;
    for (int l = 0; l < count; ++l) {
      const StyleOutput& output = outputs[first + l];
      FinishLayer& entry = table.entries[l];
      entry.scale = output.scale;
      entry.out = output.slopes;
      entry.target = output.target;
      entry.target_stride = output.target_batch == 1 ? 0 : entry.channels * entry.channels;
      entry.slope_scale = output.slope_scale;
      entry.value_scale = output.value_scale;
      entry.weight = output.weight;
    }
    return dispatch_accumulator(element, [&](auto accumulator) {
      using Acc = decltype(accumulator);
      dispatch_distance(distance, [&](auto kind) {
        launch_kernel(style_finish_kernel<Acc, decltype(kind)::value>, table.blocks * table.batch, kThreads, 0, stream,
                      table, parameter, first == 0, partial, slots,
                      static_cast<uint32_t*>(arrivals) + first / kMaxLayers * table.batch,
                      static_cast<Acc*>(values) + first * table.batch, loss);
      });
    });
  });
}

cudaError_t launch_symmetrise(Element element, int64_t batch, int64_t channels, const void* slopes, double scale,
                              void* symmetric, cudaStream_t stream) {
  if (!fits_grid(batch * channels)) return cudaErrorInvalidConfiguration;
  return dispatch_accumulator(element, [&](auto accumulator) {
    launch_kernel(symmetrise_kernel<decltype(accumulator)>, batch * channels, kRowThreads, 0, stream, slopes, channels,
                  scale, symmetric);
  });
}

cudaError_t launch_narrow(Element element, const std::vector<NarrowSlopes>& layers, cudaStream_t stream) {
  return for_launches(layers.size(), [&](size_t first, int count) {
    NarrowTable table{count, {}};
    int64_t rows = 0;
    for (int l = 0; l < count; ++l) {
      const NarrowSlopes& layer = layers[first + l];
      table.entries[l] = {static_cast<const float*>(layer.slopes),
                          layer.narrow,
                          static_cast<float*>(layer.scale),
                          static_cast<uint32_t>(layer.channels),
                          static_cast<uint32_t>(narrow_pitch(layer.channels)),
                          static_cast<uint32_t>(rows)};
      rows += layer.batch * layer.channels;
      if (!fits_grid(rows)) return cudaErrorInvalidConfiguration;
    }
    if (element == Element::kFloat16) {
      launch_kernel(narrow_kernel<__half>, rows, kRowThreads, 0, stream, table);
    } else {
      launch_kernel(narrow_kernel<__nv_bfloat16>, rows, kRowThreads, 0, stream, table);
    }
    return cudaGetLastError();
  });
}

}  // namespace perceptual_ops
