#include <algorithm>

#include "../common/feature_map.h"
#include "../common/launch.h"
#include "feature_loss.cuh"
#include "feature_loss.h"

namespace perceptual_ops {
namespace {

// Whether all samples can be walked by packs.
template <class T>
bool is_packed(const FeatureLayer& layer, int64_t batch) {
  return begins_packed<T>(layer.x, batch, layer.stride_x) && begins_packed<T>(layer.y, batch, layer.stride_y) &&
         (layer.dx == nullptr || begins_packed<T>(layer.dx, batch, layer.size));
}

template <class T>
int64_t loss_blocks(const FeatureLayer* layers, int64_t count, int64_t batch) {
  int64_t blocks = 0;
  for (int64_t l = 0; l < count; ++l) blocks += batch * ceil_div(layers[l].size, kLossChunk<T>);
  return blocks;
}

// The layers of one launch, the first of which is layer `first_layer`.
template <class T>
LossTable<T> loss_table(const std::vector<FeatureLayer>& layers, int64_t first_layer, int64_t batch,
                        const FeatureValues& values, const void* grad) {
  using Acc = DeviceAccumulator<T>;
  LossTable<T> table{};
  table.count = std::min<int64_t>(kTableLayers, layers.size() - first_layer);
  table.batch = batch;
  table.first_layer = first_layer;
  table.partial = static_cast<Acc*>(values.partial);
  table.arrivals = values.arrivals;
  table.values = static_cast<Acc*>(values.values);
  table.loss = static_cast<Acc*>(values.loss);
  table.grad = static_cast<const Acc*>(grad);
  uint32_t block = 0;
  for (uint32_t l = 0; l < table.count; ++l) {
    const FeatureLayer& layer = layers[first_layer + l];
    const uint32_t chunks = ceil_div(layer.size, kLossChunk<T>);
    table.layers[l] = {static_cast<const T*>(layer.x),
                       static_cast<const T*>(layer.y),
                       static_cast<T*>(layer.dx),
                       layer.size,
                       layer.stride_x,
                       layer.stride_y,
                       static_cast<Acc>(layer.scale),
                       static_cast<Acc>(layer.weight),
                       block,
                       chunks,
                       is_packed<T>(layer, batch)};
    block += batch * chunks;
  }
  return table;
}

}  // namespace

int64_t feature_loss_blocks(Element element, const std::vector<FeatureLayer>& layers, int64_t batch) {
  int64_t blocks = 0;
  dispatch_element(element,
                   [&](auto type) { blocks = loss_blocks<decltype(type)>(layers.data(), layers.size(), batch); });
  return blocks;
}

cudaError_t launch_feature_loss(Element element, Wanted wanted, const std::vector<FeatureLayer>& layers, int64_t batch,
                                Distance distance, double parameter, const FeatureValues& values, const void* grad,
                                cudaStream_t stream) {
  if (!fits_grid(feature_loss_blocks(element, layers, batch))) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    for (int64_t first = 0; first < static_cast<int64_t>(layers.size()); first += kTableLayers) {
      const LossTable<T> table = loss_table<T>(layers, first, batch, values, grad);
      const int64_t blocks = loss_blocks<T>(&layers[first], table.count, batch);
      dispatch_distance(distance, [&](auto kind) {
        dispatch_wanted(wanted, [&](auto pass) {
          launch_kernel(feature_loss_kernel<T, decltype(kind)::value, decltype(pass)::value>, blocks, kLossThreads, 0,
                        stream, table, parameter);
        });
      });
    }
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
