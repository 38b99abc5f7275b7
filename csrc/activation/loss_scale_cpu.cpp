// Loss scaling on the CPU.
#include <torch/csrc/stable/library.h>

#include "loss_scale_arguments.h"

namespace perceptual_ops {

Tensor loss_scale_cpu(const std::optional<Tensor> scale,  // (N)
                      const std::optional<Tensor> bound,  // (N)
                      const std::optional<Tensor> grown,  // ()
                      double spread,
                      const std::vector<Tensor> taps,     // K x (N)
                      const std::optional<Tensor> grows,  // ()
                      double room) {
  const LossScaleArguments arguments(scale, bound, grown, spread, taps, grows, room);
  for (int64_t n = 0; n < arguments.scaling().batch; ++n) choose_scale(arguments.scaling(), n);
  return arguments.result();  // (4, N)
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CPU, m) { m.impl("loss_scale", TORCH_BOX(&loss_scale_cpu)); }

}  // namespace perceptual_ops
