// total_variation on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include <string>

#include "../common/arguments.h"
#include "../common/layers.h"
#include "../common/torch_cuda.h"
#include "total_variation.h"

namespace perceptual_ops {
namespace {

ImageRows rows_of(const Tensor& dense, Layout layout) {  // (N, C, H, W)
  const int64_t channels = dense.size(1), height = dense.size(2), width = dense.size(3);
  if (layout == Layout::kNCHW) return {dense.size(0), channels, height, width, 1, dense.stride(0)};
  return {dense.size(0), 1, height, width * channels, channels, dense.stride(0)};
}

}  // namespace

Tensor total_variation_cuda(const Tensor x,  // (N, C, H, W)
                            const std::string kind) {
  check_map(x, "x");
  const CudaScope cuda(x);
  const Distance distance = variation_distance(kind);
  if (x.numel() == 0) return torch::stable::new_zeros(x, {{x.size(0)}}, accumulator_type(x));
  const Layout layout = layout_of(x);
  const Tensor dense = dense_samples(x, layout);
  const ImageRows rows = rows_of(dense, layout);
  Tensor values = torch::stable::new_empty(x, {{rows.batch}}, accumulator_type(x));
  const Tensor partial = torch::stable::new_empty(x, {{rows.batch, total_variation_blocks(rows)}}, accumulator_type(x));
  check_launch(launch_total_variation(element_of(dense, "x"), rows, distance, dense.data_ptr(), partial.data_ptr(),
                                      values.data_ptr(), cuda.stream()),
               "total_variation");
  return values;  // (N)
}

Tensor total_variation_backward_cuda(const Tensor grad,  // (N)
                                     const Tensor x,     // (N, C, H, W)
                                     const std::string kind) {
  check_map(x, "x");
  check_upstream(grad, x);
  const CudaScope cuda(x);
  const Distance distance = variation_distance(kind);
  const Layout layout = layout_of(x);
  const Tensor upstream = torch::stable::contiguous(grad);
  return filled_like(x, layout, [&](Tensor& out) {
    if (x.numel() == 0) return;
    const Tensor dense = dense_samples(x, layout);
    check_launch(launch_total_variation_gradient(element_of(dense, "x"), rows_of(dense, layout), distance,
                                                 dense.data_ptr(), upstream.data_ptr(), out.data_ptr(), cuda.stream()),
                 "total_variation_gradient");
  });
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("total_variation", TORCH_BOX(&total_variation_cuda));
  m.impl("total_variation_backward", TORCH_BOX(&total_variation_backward_cuda));
}

}  // namespace perceptual_ops
