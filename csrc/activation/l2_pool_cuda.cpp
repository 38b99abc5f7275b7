// DISTS's pooling on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include "../common/torch_cuda.h"
#include "arguments.h"
#include "l2_pool.h"

namespace perceptual_ops {
namespace {

MapShape shape_of(const Tensor& x) {  // (N, C, H, W)
  return {x.size(0), x.size(1), x.size(2), x.size(3)};
}

}  // namespace

Tensor l2_pool_cuda(const Tensor x) {  // (N, C, H, W)
  check_map(x, "x");
  const CudaScope cuda(x);
  const Element element = element_of(x, "x");
  const Tensor dense = dense_samples(x, Layout::kNHWC);
  const Tensor pooled =
      empty_channels_last(x, {x.size(0), x.size(1), l2_pooled(x.size(2)), l2_pooled(x.size(3))}, x.scalar_type());
  if (x.size(0) > 0) {
    check_launch(
        launch_l2_pool(element, shape_of(x), dense.data_ptr(), dense.stride(0), pooled.data_ptr(), cuda.stream()),
        "l2_pool");
  }
  return pooled;  // (N, C, H', W')
}

Tensor l2_pool_backward_cuda(const Tensor grad,  // (N, C, H', W')
                             const Tensor x) {   // (N, C, H, W)
  check_map(x, "x");
  check_l2_pooled(grad, x);
  const CudaScope cuda(x);
  const Element element = element_of(x, "x");
  const Tensor upstream = dense_samples(grad, Layout::kNHWC), dense = dense_samples(x, Layout::kNHWC);
  const Tensor result = empty_channels_last(x, x.sizes().vec(), x.scalar_type());
  if (x.size(0) > 0) {
    check_launch(launch_l2_pool_backward(element, shape_of(x), upstream.data_ptr(), upstream.stride(0),
                                         dense.data_ptr(), dense.stride(0), result.data_ptr(), cuda.stream()),
                 "l2_pool_backward");
  }
  return result;  // (N, C, H, W)
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("l2_pool", TORCH_BOX(&l2_pool_cuda));
  m.impl("l2_pool_backward", TORCH_BOX(&l2_pool_backward_cuda));
}

}  // namespace perceptual_ops
