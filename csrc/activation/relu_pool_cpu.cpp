// bias_relu_pool_ on the CPU: its two parts, one after the other (bench/NOTES.md says why).
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "arguments.h"

namespace perceptual_ops {

Tensor bias_relu_cpu(const Tensor x, const std::optional<Tensor> bias, bool signs);
std::tuple<Tensor, Tensor> bias_relu_pool_cpu(const Tensor x, const std::optional<Tensor> bias, bool relu,
                                              const Name kind, int64_t kernel, int64_t stride, bool codes);

std::tuple<Tensor, Tensor, Tensor> bias_relu_pool_in_place_cpu(const Tensor x,                    // (N, C, H, W)
                                                               const std::optional<Tensor> bias,  // (C)
                                                               const Name kind, int64_t kernel, int64_t stride,
                                                               bool keep) {
  check_written(x, "x");
  checked_pooling(x, kind, kernel, stride);  // before anything is written
  const Tensor signs = bias_relu_cpu(x, bias, keep);
  const auto [out, codes] = bias_relu_pool_cpu(x, std::nullopt, false, kind, kernel, stride, keep);
  return {out, signs, codes};  // (N, C, H', W'), (N, ceil(C H W / 8)) or (0), (N, bytes) or (0)
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) {
  m.impl("bias_relu_pool_", TORCH_BOX(&bias_relu_pool_in_place_cpu));
}

}  // namespace perceptual_ops
