// Stands in for the CUDA toolkit's header of this name: fp16 as the kernels use it.
#pragma once

// The compiler's own type converts as IEEE 754 says, to the nearest, ties to even.
struct __half {
  _Float16 value;
};

inline float __half2float(__half h) { return h.value; }
inline __half __float2half_rn(float f) { return {static_cast<_Float16>(f)}; }
