#include "channel_statistics.cuh"
#include "cut.cuh"

namespace perceptual_ops {
namespace {

template <class T>
std::vector<WalkedMaps> walked(const std::vector<StatisticsLayer>& layers, int64_t batch) {
  std::vector<WalkedMaps> found;
  for (const StatisticsLayer& layer : layers) {
    const bool packed = begins_packed<T>(layer.x, batch, layer.stride_x) &&
                        begins_packed<T>(layer.other, batch, layer.stride_other) && begins_packed<T>(layer.dx);
    found.push_back({layer.layout, layer.channels, layer.pixels, packed});
  }
  return found;
}

template <class T>
StatisticsEntry<T> entry_of(const StatisticsLayer& layer) {
  using Acc = DeviceAccumulator<T>;
  StatisticsEntry<T> entry{};
  entry.x = static_cast<const T*>(layer.x);
  entry.other = static_cast<const T*>(layer.other);
  entry.dx = static_cast<T*>(layer.dx);
  entry.statistics = static_cast<Acc*>(layer.statistics);
  entry.slopes = static_cast<const Acc*>(layer.slopes);
  entry.stride_x = layer.stride_x;
  entry.stride_other = layer.stride_other;
  entry.share = Acc(1) / Acc(layer.of_pixels);
  return entry;
}

// A launch of `kernel` for every kDistsLayers layers.
template <class T>
cudaError_t launch_layers(void (*kernel)(StatisticsTable<T>), const std::vector<StatisticsLayer>& layers, int64_t batch,
                          const StatisticsTable<T>& table, cudaStream_t stream) {
  return for_launches<T>(
      walked<T>(layers, batch), batch, kMoments<1>, table, [&](size_t l) { return entry_of<T>(layers[l]); },
      [&](const StatisticsTable<T>& filled, uint32_t, uint32_t, int64_t blocks) {
        launch_kernel(kernel, blocks, kDistsThreads, 0, stream, filled);
      });
}

}  // namespace

MomentSizes statistics_sizes(Element element, const std::vector<StatisticsLayer>& layers, int64_t batch) {
  MomentSizes sizes{};
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    sizes = moment_sizes<T>(walked<T>(layers, batch), batch, kMoments<1>);
  });
  return sizes;
}

cudaError_t launch_channel_statistics(Element element, const std::vector<StatisticsLayer>& layers, int64_t batch,
                                      void* partial, uint32_t* arrivals, cudaStream_t stream) {
  cudaError_t status = cudaSuccess;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    StatisticsTable<T> table{};
    table.partial = static_cast<DeviceAccumulator<T>*>(partial);
    table.arrivals = arrivals;
    status = launch_layers<T>(channel_statistics_kernel<T>, layers, batch, table, stream);
  });
  return status;
}

cudaError_t launch_channel_statistics_backward(Element element, const std::vector<StatisticsLayer>& layers,
                                               int64_t batch, const void* grad, cudaStream_t stream) {
  cudaError_t status = cudaSuccess;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    StatisticsTable<T> table{};
    table.grad = static_cast<const DeviceAccumulator<T>*>(grad);
    status = launch_layers<T>(channel_statistics_backward_kernel<T>, layers, batch, table, stream);
  });
  return status;
}

}  // namespace perceptual_ops
