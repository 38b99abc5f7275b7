// Checks of the arguments of LPIPS, the same for every backend.
#pragma once

#include "../common/layers.h"

namespace perceptual_ops {

inline void check_lpips(const std::vector<Tensor>& features,           // L x (N, C, H, W)
                        const std::vector<Tensor>& targets,            // L x (N or 1, C, H, W)
                        const std::vector<Tensor>& channel_weights) {  // L x (C)
  check_features(features);
  check_target_maps(features, targets);
  check_channel_weights(channel_weights, features, "channel_weights");
}

// One upstream number a pixel of each layer, in the accumulation type.
inline void check_pixel_upstream(const std::vector<Tensor>& grads,       // L x (N, 1, H, W)
                                 const std::vector<Tensor>& features) {  // L x (N, C, H, W)
  check(grads.size() == features.size(), "grads: expected ", features.size(), " layers, got ", grads.size());
  for (size_t l = 0; l < features.size(); ++l) {
    const Tensor &grad = grads[l], &x = features[l];
    check(grad.dim() == 4 && grad.size(0) == x.size(0) && grad.size(1) == 1 && grad.size(2) == x.size(2) &&
              grad.size(3) == x.size(3),
          "grads[", l, "]: expected (", x.size(0), ", 1, ", x.size(2), ", ", x.size(3), ")");
    check(grad.scalar_type() == accumulator_type(x) && grad.device() == x.device(), "grads[", l,
          "]: expected float32 (float64 for float64 features) on the features' device");
  }
}

}  // namespace perceptual_ops
