// Means and standard deviations of channels on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "../common/torch_cuda.h"
#include "arguments.h"
#include "channel_statistics.h"

namespace perceptual_ops {
namespace {

// The layers as the launchers read them; holds the copies, if any, alive. Statistics and gradients are for the
// operators to fill in.
struct DenseMaps {
  std::vector<Tensor> tensors;
  std::vector<StatisticsLayer> layers;

  explicit DenseMaps(const std::vector<Tensor>& features) {  // L x (N, C, H, W)
    for (const Tensor& features_of_layer : features) {
      const Layout layout = layout_of(features_of_layer);
      const Tensor x = hold(dense_samples(features_of_layer, layout));
      StatisticsLayer layer{};
      layer.layout = layout;
      layer.channels = x.size(1);
      layer.pixels = x.size(2) * x.size(3);
      layer.x = x.data_ptr();
      layer.stride_x = x.stride(0);
      layers.push_back(layer);
    }
  }

  Tensor hold(const Tensor& tensor) {
    tensors.push_back(tensor);
    return tensor;
  }
};

}  // namespace

std::vector<Tensor> channel_statistics_cuda(const std::vector<Tensor> features) {  // L x (N, C, H, W)
  check_features(features);
  const Tensor& first = features[0];
  const CudaScope cuda(first);
  const Element element = element_of(first, "features");
  const int64_t batch = first.size(0);
  DenseMaps dense(features);
  std::vector<Tensor> results;
  for (StatisticsLayer& layer : dense.layers) {
    results.push_back(
        torch::stable::new_empty(first, {{batch, kChannelStatistics, layer.channels}}, accumulator_type(first)));
    layer.statistics = results.back().data_ptr();
  }
  if (batch > 0) {
    const MomentSizes sizes = statistics_sizes(element, dense.layers, batch);
    const Tensor partial = torch::stable::new_empty(first, {{sizes.partial}}, accumulator_type(first));
    const Tensor arrivals = torch::stable::new_zeros(first, {{sizes.groups}}, ScalarType::Int);
    check_launch(launch_channel_statistics(element, dense.layers, batch, partial.data_ptr(),
                                           static_cast<uint32_t*>(arrivals.data_ptr()), cuda.stream()),
                 "channel_statistics");
  }
  return results;  // L x (N, 2, C)
}

std::vector<Tensor> channel_statistics_backward_cuda(
    const std::optional<Tensor> grad,                   // (N)
    const std::vector<Tensor> features,                 // L x (N, C, H, W)
    const std::vector<Tensor> statistics,               // L x (N, 2, C)
    const std::vector<Tensor> slopes,                   // L x (N, 2, C)
    const std::vector<int64_t> pixels,                  // (L)
    const std::vector<std::optional<Tensor>> others) {  // L x (N, C, H, W)
  check_deviations(features, statistics, slopes, pixels, others);
  if (grad) check_upstream(*grad, features[0]);
  const Tensor& first = features[0];
  const CudaScope cuda(first);
  DenseMaps dense(features);
  std::vector<LikeOutput> gradients;
  for (size_t l = 0; l < features.size(); ++l) {
    StatisticsLayer& layer = dense.layers[l];
    gradients.emplace_back(features[l], layer.layout);
    layer.statistics = dense.hold(torch::stable::contiguous(statistics[l])).data_ptr();
    layer.slopes = dense.hold(torch::stable::contiguous(slopes[l])).data_ptr();
    layer.of_pixels = pixels[l];
    if (others[l]) {
      const Tensor other = dense.hold(dense_samples(*others[l], layer.layout));
      layer.other = other.data_ptr();
      layer.stride_other = other.stride(0);
    }
    layer.dx = gradients.back().dense().data_ptr();
  }
  if (first.size(0) > 0) {
    const Tensor upstream = grad ? torch::stable::contiguous(*grad) : first;
    check_launch(launch_channel_statistics_backward(element_of(first, "features"), dense.layers, first.size(0),
                                                    grad ? upstream.data_ptr() : nullptr, cuda.stream()),
                 "channel_statistics_backward");
  }
  std::vector<Tensor> results;
  for (LikeOutput& gradient : gradients) results.push_back(gradient.finished());
  return results;
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("channel_statistics", TORCH_BOX(&channel_statistics_cuda));
  m.impl("channel_statistics_backward", TORCH_BOX(&channel_statistics_backward_cuda));
}

}  // namespace perceptual_ops
