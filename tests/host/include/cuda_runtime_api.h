// Stands in for the CUDA toolkit's header of this name: what launchers say to the runtime.
#pragma once

#include <hostcuda/builtins.h>

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = struct CUstream_st*;

// An executed launch throws where it fails.
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
