// csrc/common/launch.h on the host: the blocks of a grid, one after the other in a random order.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#include "error.h"
#include "ledger.h"
#include "random.h"

namespace hostcuda {

// The order of blocks and threads in the launches that follow.
inline Random& order() {
  static Random random(0);
  return random;
}

// `called` is the address of the kernel, `kernel` calls it.
void run_grid(const void* called, dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel);

}  // namespace hostcuda

namespace perceptual_ops {

template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared_bytes, cudaStream_t,
                   const Arguments&... arguments) {
  if (blocks < 0 || blocks > INT32_MAX) hostcuda::fail("launch: ", blocks, " blocks, expected 1 to 2^31 - 1");
  hostcuda::run_grid(reinterpret_cast<const void*>(kernel), static_cast<unsigned>(blocks), threads, shared_bytes,
                     [=] { kernel(static_cast<Parameters>(arguments)...); });
}

}  // namespace perceptual_ops
