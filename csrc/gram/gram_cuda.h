// The CUDA launchers of the Gram room on tensors, for the operators that share them.
#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../common/layers.h"
#include "../common/torch_cuda.h"
#include "gram.h"

namespace perceptual_ops {

// The sums over pixels of several layers, launched when it is built; holds what their finish needs.
class GramSums {
 public:
  GramSums(const std::vector<Tensor>& features,  // L x (N, C, H, W), N > 0
           const CudaScope& cuda);

  void finish(const std::vector<GramOutput>& outputs, const CudaScope& cuda) const;
  void finish(const std::vector<StyleOutput>& outputs, Distance distance, double parameter,
              const Tensor& values,  // (L, N)
              const Tensor& loss,    // (N)
              const CudaScope& cuda) const;

 private:
  Element element_;
  std::vector<Tensor> maps_;
  std::vector<MapPointer> layers_;
  GramWorkspace workspace_;
  Tensor partial_, slots_, arrivals_;
};

// S of several layers as the gradient multiplies by it, launched when it is built.
class Slopes {
 public:
  Slopes(const std::vector<Tensor>& slopes,  // L x (N, C, C), symmetric
         const Tensor& x,                    // one of the maps, for their dtype
         const CudaScope& cuda);

  const void* matrix(size_t layer) const { return matrices_[layer].data_ptr(); }
  const void* scale(size_t layer) const { return scales_[layer] ? scales_[layer]->data_ptr() : nullptr; }

 private:
  std::vector<Tensor> wide_;  // what the launch reads
  std::vector<Tensor> matrices_;
  std::vector<std::optional<Tensor>> scales_;
};

// One layer's map as it is read, and its gradient as it is written.
class GradientTensors {
 public:
  explicit GradientTensors(const Tensor& x)  // (N, C, H, W)
      : x_(served(x)), output_(x, layout_of(x)) {}

  Layout layout() const { return layout_of(x_); }
  GradientOutput output(const Slopes& slopes, size_t layer) {
    GradientOutput gradient{};
    gradient.x = {x_.data_ptr(), *feature_map(x_)};
    gradient.dx = output_.dense().data_ptr();
    gradient.dx_map = *feature_map(output_.dense());
    gradient.slopes = slopes.matrix(layer);
    gradient.scale = slopes.scale(layer);
    return gradient;
  }
  Tensor result() { return output_.finished(); }

 private:
  Tensor x_;
  LikeOutput output_;
};

// -> (loss (N), values (L, N), slopes L x (N, C, C))
std::tuple<Tensor, Tensor, std::vector<Tensor>> style_values(
    const std::vector<Tensor>& features,      // L x (N, C, H, W)
    const std::vector<Tensor>& target_grams,  // L x (N or 1, C, C)
    const std::vector<double>& weights,       // (L)
    const std::string& normalize, const std::string& distance, double parameter, const CudaScope& cuda);

}  // namespace perceptual_ops
