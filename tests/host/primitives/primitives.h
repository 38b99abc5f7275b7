// Small kernels with known answers, by name, each (in, out) in 32-bit words.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

namespace perceptual_ops {

cudaError_t launch_primitive(const std::string& name, int64_t blocks, int threads, int shared_bytes, const uint32_t* in,
                             uint32_t* out, cudaStream_t stream);

}  // namespace perceptual_ops
