// Element types on the device: conversion to and from the accumulator, dispatch from the run-time name.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "element.h"

namespace perceptual_ops {

template <class T>
using DeviceAccumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
__device__ __forceinline__ DeviceAccumulator<T> widen(T value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __half2float(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __bfloat162float(value);
  } else {
    return value;
  }
}

template <class T>
__device__ __forceinline__ T narrow(DeviceAccumulator<T> value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// Calls f(T{}) for the device type of `element`.
template <class F>
void dispatch_element(Element element, F&& f) {
  switch (element) {
    case Element::kFloat32:
      return f(float{});
    case Element::kBFloat16:
      return f(__nv_bfloat16{});
#ifdef HOSTCUDA_TWO_ELEMENTS  // the tests' host execution, sanitized or counted
    default:
      hostcuda::fail("of this build the elements are fp32 and bfloat16 alone");
#else
    case Element::kFloat64:
      return f(double{});
    case Element::kFloat16:
      return f(__half{});
#endif
  }
}

}  // namespace perceptual_ops
