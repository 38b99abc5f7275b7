// total_variation on CUDA: check, guard, allocate, stream, launch, check, register.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

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

// Values, gradient or both; what is not wanted stays empty.
struct Result {
  std::optional<Tensor> values, gradient;  // (N), (N, C, H, W)
};

Result run(const Tensor& x,  // (N, C, H, W)
           const std::string& kind,
           const std::optional<Tensor>& grad,  // (N)
           Wanted wanted) {
  check_map(x, "x");
  if (grad) check_upstream(*grad, x);
  const CudaScope cuda(x);
  const Distance distance = variation_distance(kind);
  const Element element = element_of(x, "x");
  const Layout layout = layout_of(x);
  const Tensor dense = dense_samples(x, layout);
  const ImageRows rows = rows_of(dense, layout);

  Result result;
  std::optional<Tensor> partial, arrivals, upstream;
  std::optional<LikeOutput> dx;
  VariationValues values{};
  if (wanted != Wanted::kGradient) {
    const int64_t slots = total_variation_slots(rows);
    result.values = torch::stable::new_empty(x, {{rows.batch}}, accumulator_type(x));
    partial = torch::stable::new_empty(x, {{rows.batch, slots}}, accumulator_type(x));
    arrivals = torch::stable::new_zeros(x, {{rows.batch}}, ScalarType::Int);
    values = {partial->data_ptr(), static_cast<uint32_t*>(arrivals->data_ptr()), result.values->data_ptr()};
  }
  if (wanted != Wanted::kValue) dx.emplace(x, layout);
  if (grad) upstream = torch::stable::contiguous(*grad);
  if (rows.batch > 0) {
    check_launch(launch_total_variation(element, wanted, rows, distance, dense.data_ptr(), values,
                                        upstream ? upstream->data_ptr() : nullptr,
                                        dx ? dx->dense().data_ptr() : nullptr, cuda.stream()),
                 "total_variation");
  }
  if (dx) result.gradient = dx->finished();
  return result;
}

}  // namespace

Tensor total_variation_cuda(const Tensor x,  // (N, C, H, W)
                            const Name kind) {
  return *run(x, kind, std::nullopt, Wanted::kValue).values;
}

Tensor total_variation_backward_cuda(const Tensor grad,  // (N)
                                     const Tensor x,     // (N, C, H, W)
                                     const Name kind) {
  return *run(x, kind, grad, Wanted::kGradient).gradient;
}

std::tuple<Tensor, Tensor> total_variation_with_gradient_cuda(const Tensor x,  // (N, C, H, W)
                                                              const Name kind,
                                                              const std::optional<Tensor> grad) {  // (N)
  const Result result = run(x, kind, grad, Wanted::kBoth);
  return {*result.values, *result.gradient};
}

STABLE_TORCH_LIBRARY_IMPL(perceptual_ops, CUDA, m) {
  m.impl("total_variation", TORCH_BOX(&total_variation_cuda));
  m.impl("total_variation_backward", TORCH_BOX(&total_variation_backward_cuda));
  m.impl("total_variation_with_gradient", TORCH_BOX(&total_variation_with_gradient_cuda));
}

}  // namespace perceptual_ops
