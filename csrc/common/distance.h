// The distances d(e) of an error e = x - y and their slopes d'(e), for host and device.
// Formulas: perceptual_ops/reference.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#define PO_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define PO_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace perceptual_ops {

enum class Distance : int8_t { kSquared, kL1, kCharbonnier, kHuber };

// d(e) and d'(e). A NaN error gives a NaN value for every distance.
template <class Real>
struct Point {
  Real value;
  Real slope;
};

template <Distance kDistance, class Real>
PO_HOST_DEVICE Point<Real> distance_at(Real error, Real parameter) {
  if constexpr (kDistance == Distance::kSquared) {
    return {error * error, Real(2) * error};
  } else if constexpr (kDistance == Distance::kL1) {
    const Real sign = Real(error > Real(0)) - Real(error < Real(0));
    return {error < Real(0) ? -error : error, sign};
  } else if constexpr (kDistance == Distance::kCharbonnier) {  // parameter: eps
    const Real root = std::sqrt(error * error + parameter);
    return {root, error / root};
  } else {  // Huber; parameter: delta
    const Real magnitude = error < Real(0) ? -error : error;
    if (magnitude > parameter) {
      return {parameter * (magnitude - Real(0.5) * parameter), error > Real(0) ? parameter : -parameter};
    }
    return {Real(0.5) * error * error, error};
  }
}

// Calls f(std::integral_constant<Distance, ...>) for a run-time distance.
template <class F>
void dispatch_distance(Distance distance, F&& f) {
  switch (distance) {
    case Distance::kSquared:
      return f(std::integral_constant<Distance, Distance::kSquared>{});
    case Distance::kL1:
      return f(std::integral_constant<Distance, Distance::kL1>{});
    case Distance::kCharbonnier:
      return f(std::integral_constant<Distance, Distance::kCharbonnier>{});
    case Distance::kHuber:
      return f(std::integral_constant<Distance, Distance::kHuber>{});
  }
}

}  // namespace perceptual_ops
