// What launchers share. No torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#ifndef __CUDACC__
#include <hostcuda/launch.h>  // the tests' host execution, with the launch_kernel of its own
#endif

namespace perceptual_ops {

// Blocks are counted along x, whose limit is 2^31 - 1.
inline bool fits_grid(int64_t blocks) { return blocks <= INT32_MAX; }

#ifdef __CUDACC__
// kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...) as a function, so that a .cu file is plain C++ too.
// Arguments are cast to the kernel's parameters: launchers hold untyped pointers, doubles and counts under 2^31. More
// than 48 KB of dynamic shared memory must be asked for. Errors are left to cudaGetLastError.
template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
                   const Arguments&... arguments) {
  constexpr int kSharedWithoutAsking = 48 * 1024;
  if (shared_bytes > kSharedWithoutAsking) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
}
#endif

}  // namespace perceptual_ops
