// Matrix products of the Gram and of its gradient on the CPU.
#pragma once

#include "../common/cpu.h"

namespace perceptual_ops {

// X X^T of every sample, unscaled: (N, C, H, W) -> (N, C, C) in fp32 (fp64 for fp64).
Tensor gram_products(const Tensor& features);

// S X of every sample, for symmetric S, plus `other`, in the dtype and memory layout of the features. -> (N, C, H, W)
Tensor gram_gradient(const Tensor& symmetric,              // (N, C, C) fp32 (fp64 for fp64)
                     const Tensor& features,               // (N, C, H, W)
                     const std::optional<Tensor>& other);  // (N, C, H, W)

}  // namespace perceptual_ops
