#include "torch_cuda.h"

#include <dlfcn.h>

namespace perceptual_ops {
namespace {

// aoti_torch_get_current_cuda_stream lives in libtorch_cuda.so, which a CPU build of torch lacks: linking to it would
// make this library unloadable there. The library is already mapped wherever a CUDA tensor exists, so it is looked up
// by name.
using CurrentStream = int32_t (*)(int32_t device_index, void** stream);

CurrentStream current_stream_function() {
  static const auto function = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    return library ? reinterpret_cast<CurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  return function;
}

}  // namespace

CudaScope::CudaScope(const Tensor& on_device) : guard_(on_device.get_device_index()) {
  const int32_t device = on_device.get_device_index();
  const CurrentStream current_stream = current_stream_function();
  check(current_stream != nullptr,
        "perceptual_ops: this torch has no aoti_torch_get_current_cuda_stream; expected a CUDA "
        "build of torch >= 2.10");
  void* stream = nullptr;
  check(current_stream(device, &stream) == 0, "perceptual_ops: torch gave no current stream for cuda:", device);
  stream_ = static_cast<cudaStream_t>(stream);
}

void check_launch(cudaError_t status, const char* kernel) {
  if (status == cudaSuccess) return;
  if (status == cudaErrorInsufficientDriver) {
    check(false, "perceptual_ops: the NVIDIA driver is too old for CUDA " PO_CUDA_VERSION
                 ", which this library carries: update the driver, or build from source with its CUDA toolkit");
  }
  if (status == cudaErrorNoKernelImageForDevice) {
    check(false, "perceptual_ops: no kernel for this GPU's architecture, only for " PO_CUDA_ARCHITECTURES
                 ": build from source with PERCEPTUAL_OPS_CUDA_ARCHS set to it");
  }
  check(false, "perceptual_ops: ", kernel, ": ", cudaGetErrorString(status));
}

Element element_of(const Tensor& x, const char* argument) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Element::kFloat32;
    case ScalarType::Double:
      return Element::kFloat64;
    case ScalarType::Half:
      return Element::kFloat16;
    case ScalarType::BFloat16:
      return Element::kBFloat16;
    default:
      check(false, argument, ": expected dtype float32, float16, bfloat16 or float64");
  }
  return Element::kFloat32;
}

}  // namespace perceptual_ops
