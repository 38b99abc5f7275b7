// Loss scaling on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include "../common/torch_cuda.h"
#include "loss_scale.h"
#include "loss_scale_arguments.h"

namespace perceptual_ops {

Tensor loss_scale_cuda(const std::optional<Tensor> scale,  // (N)
                       const std::optional<Tensor> bound,  // (N)
                       const std::optional<Tensor> grown,  // ()
                       double spread,
                       const std::vector<Tensor> taps,     // K x (N)
                       const std::optional<Tensor> grows,  // ()
                       double room) {
  const CudaScope cuda(LossScaleArguments::first_of(bound, taps));
  const LossScaleArguments arguments(scale, bound, grown, spread, taps, grows, room);
  if (arguments.scaling().batch > 0) {
    check_launch(launch_loss_scale(arguments.scaling(), cuda.stream()), "loss_scale");
  }
  return arguments.result();  // (4, N)
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) { m.impl("loss_scale", TORCH_BOX(&loss_scale_cuda)); }

}  // namespace perceptual_ops
