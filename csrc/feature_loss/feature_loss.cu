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
      feature_loss_partial_kernel<T, decltype(kind)::value>
          <<<static_cast<unsigned>(blocks * samples.batch), kLossThreads, 0, stream>>>(
              static_cast<const T*>(samples.x), static_cast<const T*>(samples.y), samples.size, samples.stride_x,
              samples.stride_y, static_cast<uint32_t>(blocks), static_cast<Acc>(parameter), static_cast<Acc*>(partial));
    });
    feature_loss_finish_kernel<<<static_cast<unsigned>(samples.batch), kLossThreads, 0, stream>>>(
        static_cast<const Acc*>(partial), blocks, static_cast<Acc>(value_scale), static_cast<Acc>(weight), first_layer,
        static_cast<Acc*>(values), static_cast<Acc*>(loss));
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
    using Acc = DeviceAccumulator<T>;
    dispatch_distance(distance, [&](auto kind) {
      feature_loss_gradient_kernel<T, decltype(kind)::value>
          <<<static_cast<unsigned>(blocks * samples.batch), kLossThreads, 0, stream>>>(
              static_cast<const T*>(samples.x), static_cast<const T*>(samples.y), samples.size, samples.stride_x,
              samples.stride_y, static_cast<uint32_t>(blocks), static_cast<Acc>(parameter),
              static_cast<Acc>(slope_scale), static_cast<const Acc*>(grad), static_cast<T*>(dx));
    });
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
