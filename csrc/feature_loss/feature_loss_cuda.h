// The feature loss on CUDA, for the operators that share it.
#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../common/tensor_view.h"

namespace perceptual_ops {

// -> (loss (N), values (L, N), gradients L x (N, C, H, W)), one launch
std::tuple<Tensor, Tensor, std::vector<Tensor>> feature_loss_with_gradient_cuda(
    const std::vector<Tensor> features,  // L x (N, C, H, W)
    const std::vector<Tensor> targets,   // L x (N or 1, C, H, W)
    const std::vector<double> weights,   // (L)
    const std::string distance, double parameter,
    const std::optional<Tensor> grad);  // (N), ones where there is none

}  // namespace perceptual_ops
