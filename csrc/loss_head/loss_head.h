// The checks of loss_head, the same for every backend.
#pragma once

#include <optional>

#include "../common/layers.h"

namespace perceptual_ops {

// Where a layer stands in the lists of the style and of the content layers; -1 where it does not.
struct HeadLayer {
  int64_t style = -1, content = -1;
};

// One entry a layer, from two rising lists of indices that together name every layer.
inline std::vector<HeadLayer> head_layers(int64_t layers, const std::vector<int64_t>& style_layers,
                                          const std::vector<int64_t>& content_layers) {
  std::vector<HeadLayer> head(layers);
  const auto enter = [&](const char* argument, const std::vector<int64_t>& indices, int64_t HeadLayer::* place) {
    for (size_t i = 0; i < indices.size(); ++i) {
      check(indices[i] >= 0 && indices[i] < layers, argument, ": expected indices below ", layers, ", got ",
            indices[i]);
      check(i == 0 || indices[i - 1] < indices[i], argument, ": expected rising indices, got ", indices[i], " after ",
            i == 0 ? 0 : indices[i - 1]);
      head[indices[i]].*place = i;
    }
  };
  enter("style_layers", style_layers, &HeadLayer::style);
  enter("content_layers", content_layers, &HeadLayer::content);
  for (int64_t l = 0; l < layers; ++l) {
    check(head[l].style >= 0 || head[l].content >= 0, "features: expected every layer in style_layers or ",
          "content_layers, got ", l, " in neither");
  }
  return head;
}

inline std::vector<Tensor> layers_at(const std::vector<Tensor>& features, const std::vector<int64_t>& indices) {
  std::vector<Tensor> found;
  for (const int64_t index : indices) found.push_back(features[index]);
  return found;
}

// Checks every tensor and list of a head.
inline std::vector<HeadLayer> checked_head(const std::vector<Tensor>& features,         // L x (N, C, H, W)
                                           const std::vector<int64_t>& style_layers,    // (S)
                                           const std::vector<Tensor>& target_grams,     // S x (N or 1, C, C)
                                           const std::vector<double>& style_weights,    // (S)
                                           const std::vector<int64_t>& content_layers,  // (K)
                                           const std::vector<Tensor>& targets,          // K x (N or 1, C, H, W)
                                           const std::vector<double>& content_weights,  // (K)
                                           const std::optional<Tensor>& grad) {         // (N)
  check_features(features, std::vector<double>(features.size()));
  std::vector<HeadLayer> head = head_layers(features.size(), style_layers, content_layers);
  check(style_weights.size() == style_layers.size(), "style_weights: expected ", style_layers.size(), ", got ",
        style_weights.size());
  check(content_weights.size() == content_layers.size(), "content_weights: expected ", content_layers.size(), ", got ",
        content_weights.size());
  check_gram_pairs(layers_at(features, style_layers), target_grams);
  check_target_maps(layers_at(features, content_layers), targets);
  if (grad) check_upstream(*grad, features[0]);
  return head;
}

}  // namespace perceptual_ops
