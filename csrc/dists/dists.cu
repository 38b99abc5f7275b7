#include "cut.cuh"
#include "dists.h"
#include "gradient.cuh"

namespace perceptual_ops {
namespace {

// The layers as they are cut, but for what of it depends on the batch.
template <class T>
std::vector<WalkedMaps> walked(const std::vector<DistsLayer>& layers, int64_t batch) {
  std::vector<WalkedMaps> found;
  for (const DistsLayer& layer : layers) {
    const bool packed = begins_packed<T>(layer.x, batch, layer.stride_x) &&
                        begins_packed<T>(layer.y, batch, layer.stride_y) && begins_packed<T>(layer.dx) &&
                        begins_packed<T>(layer.dy);
    found.push_back({layer.layout, layer.channels, layer.pixels, packed});
  }
  return found;
}

template <class T>
DistsEntry<T> entry_of(const DistsLayer& layer) {
  using Acc = DeviceAccumulator<T>;
  DistsEntry<T> entry{};
  entry.x = static_cast<const T*>(layer.x);
  entry.y = static_cast<const T*>(layer.y);
  entry.dx = static_cast<T*>(layer.dx);
  entry.dy = static_cast<T*>(layer.dy);
  entry.alpha = static_cast<const Acc*>(layer.alpha);
  entry.beta = static_cast<const Acc*>(layer.beta);
  entry.statistics = static_cast<Acc*>(layer.statistics);
  entry.stride_x = layer.stride_x;
  entry.stride_y = layer.stride_y;
  return entry;
}

// A launch of `kernel` for every kDistsLayers layers.
template <class T>
cudaError_t launch_layers(void (*kernel)(DistsTable<T>), const std::vector<DistsLayer>& layers, int64_t batch,
                          DistsTable<T> table, cudaStream_t stream) {
  table.batch = batch;
  return for_launches<T>(
      walked<T>(layers, batch), batch, kDistsStatistics, table, [&](size_t l) { return entry_of<T>(layers[l]); },
      [&](DistsTable<T>& filled, uint32_t first, uint32_t groups, int64_t blocks) {
        filled.first_layer = first;
        filled.groups = groups;
        launch_kernel(kernel, blocks, kDistsThreads, 0, stream, filled);
      });
}

}  // namespace

MomentSizes dists_sizes(Element element, const std::vector<DistsLayer>& layers, int64_t batch) {
  MomentSizes sizes{};
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    sizes = moment_sizes<T>(walked<T>(layers, batch), batch, kDistsStatistics);
  });
  return sizes;
}

cudaError_t launch_dists(Element element, const std::vector<DistsLayer>& layers, int64_t batch,
                         const DistsValues& values, cudaStream_t stream) {
  cudaError_t status = cudaSuccess;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    using Acc = DeviceAccumulator<T>;
    DistsTable<T> table{};
    table.partial = static_cast<Acc*>(values.partial);
    table.of_groups = static_cast<Acc*>(values.of_groups);
    table.arrivals = values.arrivals;
    table.values = static_cast<Acc*>(values.values);
    table.loss = static_cast<Acc*>(values.loss);
    status = launch_layers<T>(dists_kernel<T>, layers, batch, table, stream);
  });
  return status;
}

cudaError_t launch_dists_backward(Element element, const std::vector<DistsLayer>& layers, int64_t batch,
                                  const void* grad, cudaStream_t stream) {
  const bool by_x = layers[0].dx != nullptr, by_y = layers[0].dy != nullptr;
  cudaError_t status = cudaSuccess;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    DistsTable<T> table{};
    table.grad = static_cast<const DeviceAccumulator<T>*>(grad);
    const auto kernel = by_x && by_y ? dists_backward_kernel<T, Inputs::kBoth>
                        : by_x       ? dists_backward_kernel<T, Inputs::kX>
                                     : dists_backward_kernel<T, Inputs::kY>;
    status = launch_layers<T>(kernel, layers, batch, table, stream);
  });
  return status;
}

}  // namespace perceptual_ops
