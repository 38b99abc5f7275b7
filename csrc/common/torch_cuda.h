// The one place that reaches torch's CUDA runtime: device, stream, and errors told with their remedy.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include "element.h"
#include "tensor_view.h"

namespace perceptual_ops {

// Makes the device of a tensor current for torch and for the runtime this library carries, and holds torch's current
// stream of that device. Built once at the start of every CUDA operator.
class CudaScope {
 public:
  explicit CudaScope(const Tensor& on_device);
  ~CudaScope();
  CudaScope(const CudaScope&) = delete;
  CudaScope& operator=(const CudaScope&) = delete;

  cudaStream_t stream() const { return stream_; }

 private:
  // The runtime this library carries keeps a current device of its own: asked before torch's guard may change it.
  int previous_device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// Throws one sentence with the remedy unless the launch of `kernel` succeeded.
void check_launch(cudaError_t status, const char* kernel);

// The kernels' name of x's dtype.
Element element_of(const Tensor& x, const char* argument);

}  // namespace perceptual_ops
