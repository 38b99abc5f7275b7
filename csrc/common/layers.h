// What operators over lists of layers share: checks of the lists, per-layer values to losses.
#pragma once

#include <tuple>

#include "name.h"
#include "tensor_view.h"

namespace perceptual_ops {

// A batch of maps with at least one channel and pixel.
inline void check_map(const Tensor& x, const char* argument) {  // (N, C, H, W)
  check(x.dim() == 4, argument, ": expected (N, C, H, W), got ", x.dim(), " dimensions");
  check(x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, argument, ": expected at least one channel and pixel, got (",
        x.size(0), ", ", x.size(1), ", ", x.size(2), ", ", x.size(3), ")");
}

// One map per layer, of one batch, dtype and device.
inline void check_features(const std::vector<Tensor>& features) {  // L x (N, C, H, W)
  check(!features.empty(), "features: expected at least one layer, got none");
  for (const Tensor& x : features) {
    check_map(x, "features");
    check(x.size(0) == features[0].size(0), "features: expected the batch ", features[0].size(0),
          " in every layer, got ", x.size(0));
    check(x.scalar_type() == features[0].scalar_type(), "features: expected one dtype for every layer");
    check(x.device() == features[0].device(), "features: expected one device for every layer");
  }
}

inline void check_features(const std::vector<Tensor>& features,   // L x (N, C, H, W)
                           const std::vector<double>& weights) {  // (L)
  check_features(features);
  check(features.size() == weights.size(), "weights: expected ", features.size(), ", got ", weights.size());
}

// One number per channel of each layer.
inline void check_channel_weights(const std::vector<Tensor>& weights,   // L x (C)
                                  const std::vector<Tensor>& features,  // L x (N, C, H, W)
                                  const char* argument) {
  check(weights.size() == features.size(), argument, ": expected ", features.size(), " layers, got ", weights.size());
  for (size_t l = 0; l < features.size(); ++l) {
    const Tensor &weight = weights[l], &x = features[l];
    check(weight.dim() == 1 && weight.size(0) == x.size(1), argument, "[", l, "]: expected (", x.size(1), ")");
    check(weight.scalar_type() == accumulator_type(x) && weight.device() == x.device(), argument, "[", l,
          "]: expected float32 (float64 for float64 features) on the features' device");
  }
}

// One upstream gradient per sample, in the accumulation type.
inline void check_upstream(const Tensor& grad,  // (N)
                           const Tensor& x) {   // (N, C, H, W)
  check(grad.dim() == 1 && grad.size(0) == x.size(0), "grad: expected (", x.size(0), ")");
  check(grad.scalar_type() == accumulator_type(x) && grad.device() == x.device(),
        "grad: expected float32 (float64 for float64 input) on the input's device");
}

// Targets shaped like the features, with their batch or a batch of one.
inline void check_target_maps(const std::vector<Tensor>& features,   // L x (N, C, H, W)
                              const std::vector<Tensor>& targets) {  // L x (N or 1, C, H, W)
  check(targets.size() == features.size(), "targets: expected ", features.size(), " layers, got ", targets.size());
  for (size_t l = 0; l < features.size(); ++l) {
    const Tensor &x = features[l], &y = targets[l];
    check(y.dim() == 4 && y.size(1) == x.size(1) && y.size(2) == x.size(2) && y.size(3) == x.size(3), "targets[", l,
          "]: expected the shape of its features");
    check(y.size(0) == 1 || y.size(0) == x.size(0), "targets[", l, "]: expected a batch of 1 or ", x.size(0), ", got ",
          y.size(0));
    check(y.scalar_type() == x.scalar_type() && y.device() == x.device(), "targets[", l,
          "]: expected the dtype and device of its features");
  }
}

inline void check_feature_pairs(const std::vector<Tensor>& features,  // L x (N, C, H, W)
                                const std::vector<Tensor>& targets,   // L x (N or 1, C, H, W)
                                const std::vector<double>& weights) {
  check_features(features, weights);
  check_target_maps(features, targets);
}

// Square matrices for the channels of each layer, with the batch of the features or a batch of one.
inline void check_gram_pairs(const std::vector<Tensor>& features,  // L x (N, C, H, W)
                             const std::vector<Tensor>& grams,     // L x (N or 1, C, C)
                             const char* argument) {
  check(grams.size() == features.size(), argument, ": expected ", features.size(), " layers, got ", grams.size());
  for (size_t l = 0; l < features.size(); ++l) {
    const Tensor &x = features[l], &gram = grams[l];
    check(gram.dim() == 3 && gram.size(1) == x.size(1) && gram.size(2) == x.size(1), argument, "[", l,
          "]: expected (N, ", x.size(1), ", ", x.size(1), ")");
    check(gram.size(0) == 1 || gram.size(0) == x.size(0), argument, "[", l, "]: expected a batch of 1 or ", x.size(0),
          ", got ", gram.size(0));
    check(gram.scalar_type() == accumulator_type(x) && gram.device() == x.device(), argument, "[", l,
          "]: expected float32 (float64 for float64 features) on the features' device");
  }
}

// The same, with the batch of the features alone.
inline void check_slopes(const std::vector<Tensor>& features,  // L x (N, C, H, W)
                         const std::vector<Tensor>& slopes) {  // L x (N, C, C)
  check_gram_pairs(features, slopes, "slopes");
  for (const Tensor& slope : slopes) {
    check(slope.size(0) == features[0].size(0), "slopes: expected one matrix a sample, ", features[0].size(0), ", got ",
          slope.size(0));
  }
}

// Gradients shaped like the features, or none.
inline void check_other_gradients(const std::vector<Tensor>& features,                 // L x (N, C, H, W)
                                  const std::vector<std::optional<Tensor>>& others) {  // L x (N, C, H, W)
  check(others.size() == features.size(), "others: expected ", features.size(), " layers, got ", others.size());
  for (size_t l = 0; l < features.size(); ++l) {
    if (!others[l]) continue;
    const Tensor &x = features[l], &other = *others[l];
    check(other.dim() == 4 && other.size(0) == x.size(0) && other.size(1) == x.size(1) && other.size(2) == x.size(2) &&
              other.size(3) == x.size(3),
          "others[", l, "]: expected the shape of its features");
    check(other.scalar_type() == x.scalar_type() && other.device() == x.device(), "others[", l,
          "]: expected the dtype and device of its features");
  }
}

}  // namespace perceptual_ops
