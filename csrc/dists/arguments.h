// Checks of the arguments of DISTS and of channel statistics, the same for every backend.
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

// Numbers of each channel, `count` of them, as the forward pass left them or as slopes of these.
inline void check_statistics(const std::vector<Tensor>& statistics,  // L x (N, count, C)
                             const std::vector<Tensor>& features,    // L x (N, C, H, W)
                             int64_t count, const char* argument) {
  check(statistics.size() == features.size(), argument, ": expected ", features.size(), " layers, got ",
        statistics.size());
  for (size_t l = 0; l < features.size(); ++l) {
    const Tensor &numbers = statistics[l], &x = features[l];
    check(
        numbers.dim() == 3 && numbers.size(0) == x.size(0) && numbers.size(1) == count && numbers.size(2) == x.size(1),
        argument, "[", l, "]: expected (", x.size(0), ", ", count, ", ", x.size(1), ")");
    check(numbers.scalar_type() == accumulator_type(x) && numbers.device() == x.device(), argument, "[", l,
          "]: expected float32 (float64 for float64 features) on the features' device");
  }
}

// What the gradient of channel statistics takes.
inline void check_deviations(const std::vector<Tensor>& features,                 // L x (N, C, H, W)
                             const std::vector<Tensor>& statistics,               // L x (N, 2, C)
                             const std::vector<Tensor>& slopes,                   // L x (N, 2, C)
                             const std::vector<int64_t>& pixels,                  // (L)
                             const std::vector<std::optional<Tensor>>& others) {  // L x (N, C, H, W)
  check_features(features);
  check_statistics(statistics, features, kChannelStatistics, "statistics");
  check_statistics(slopes, features, kChannelStatistics, "slopes");
  check(pixels.size() == features.size(), "pixels: expected ", features.size(), ", got ", pixels.size());
  for (const int64_t count : pixels) check(count > 0, "pixels: expected at least 1, got ", count);
  check_other_gradients(features, others);
}

}  // namespace perceptual_ops
