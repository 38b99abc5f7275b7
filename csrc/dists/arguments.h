// Checks of the arguments of DISTS, the same for every backend.
#pragma once

#include "../common/layers.h"
#include "statistics.h"

namespace perceptual_ops {

inline void check_dists(const std::vector<Tensor>& features,  // L x (N, C, H, W)
                        const std::vector<Tensor>& targets,   // L x (N or 1, C, H, W)
                        const std::vector<Tensor>& alpha,     // L x (C)
                        const std::vector<Tensor>& beta) {    // L x (C)
  check_features(features);
  check_target_maps(features, targets);
  check_channel_weights(alpha, features, "alpha");
  check_channel_weights(beta, features, "beta");
}

// The statistics as the forward pass left them.
inline void check_statistics(const std::vector<Tensor>& statistics,  // L x (N, 6, C)
                             const std::vector<Tensor>& features) {  // L x (N, C, H, W)
  check(statistics.size() == features.size(), "statistics: expected ", features.size(), " layers, got ",
        statistics.size());
  for (size_t l = 0; l < features.size(); ++l) {
    const Tensor &numbers = statistics[l], &x = features[l];
    check(numbers.dim() == 3 && numbers.size(0) == x.size(0) && numbers.size(1) == kDistsStatistics &&
              numbers.size(2) == x.size(1),
          "statistics[", l, "]: expected (", x.size(0), ", ", kDistsStatistics, ", ", x.size(1), ")");
    check(numbers.scalar_type() == accumulator_type(x) && numbers.device() == x.device(), "statistics[", l,
          "]: expected float32 (float64 for float64 features) on the features' device");
  }
}

}  // namespace perceptual_ops
