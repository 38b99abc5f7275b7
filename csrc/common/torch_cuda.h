// The one place that reaches torch's CUDA runtime: device, stream, and errors told with their remedy.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include "element.h"
#include "tensor_view.h"

namespace perceptual_ops {

// Makes the device of a tensor current, and holds torch's current stream of that device. Built once at the start of
// every CUDA operator. The runtime that this library carries follows the driver's current context, as torch's does,
// and torch's guard sets that. It is not asked itself: on a thread without a context it would make one on the first
// GPU.
class CudaScope {
 public:
  explicit CudaScope(const Tensor& on_device);
  CudaScope(const CudaScope&) = delete;
  CudaScope& operator=(const CudaScope&) = delete;

  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// Throws one sentence with the remedy unless the launch of `kernel` succeeded.
void check_launch(cudaError_t status, const char* kernel);

// The kernels' name of x's dtype.
Element element_of(const Tensor& x, const char* argument);

}  // namespace perceptual_ops
