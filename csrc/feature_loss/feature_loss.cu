#include "../common/feature_map.h"
#include "../common/launch.h"
#include "feature_loss.cuh"
#include "feature_loss.h"

namespace perceptual_ops {

int64_t feature_loss_blocks(int64_t sample_size) { return ceil_div(sample_size, kLossChunk); }

cudaError_t launch_feature_loss(Element element, const SamplePair& samples, Distance distance, double parameter,
                                double value_scale, double weight, bool first_layer, void* partial, void* values,
                                void* loss, cudaStream_t stream) {
  const int64_t blocks = feature_loss_blocks(samples.size);
  if (!fits_grid(blocks * samples.batch)) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    using Acc = DeviceAccumulator<T>;
    dispatch_distance(distance, [&](auto kind) {
      launch_kernel(feature_loss_partial_kernel<T, decltype(kind)::value>, blocks * samples.batch, kLossThreads, 0,
                    stream, samples.x, samples.y, samples.size, samples.stride_x, samples.stride_y, blocks, parameter,
                    partial);
    });
    launch_kernel(feature_loss_finish_kernel<Acc>, samples.batch, kLossThreads, 0, stream, partial, blocks, value_scale,
                  weight, first_layer, values, loss);
  });
  return cudaGetLastError();
}

cudaError_t launch_feature_loss_gradient(Element element, const SamplePair& samples, Distance distance,
                                         double parameter, double slope_scale, const void* grad, void* dx,
                                         cudaStream_t stream) {
  const int64_t blocks = feature_loss_blocks(samples.size);
  if (!fits_grid(blocks * samples.batch)) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    dispatch_distance(distance, [&](auto kind) {
      launch_kernel(feature_loss_gradient_kernel<T, decltype(kind)::value>, blocks * samples.batch, kLossThreads, 0,
                    stream, samples.x, samples.y, samples.size, samples.stride_x, samples.stride_y, blocks, parameter,
                    slope_scale, grad, dx);
    });
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
