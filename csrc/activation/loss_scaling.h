// The arithmetic of loss scaling, the same for every backend. No torch here: .cuh files include this.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/distance.h"

namespace perceptual_ops {

constexpr int kMaxTaps = 8;
constexpr int kMaxExponent = 60;  // of a scale, so that the ratio of two is finite in fp32

// State of a scaled gradient and what happens to it next; all in fp32.
struct LossScaling {
  int64_t batch;
  const float* scale;  // (N), scale of the gradient; null for ones
  const float* bound;  // (N), bound of the scaled gradient; null where there is none yet
  const float* grown;  // (), growth since the bound was taken; null for 1
  float spread;        // growth before it is written again
  int taps;
  const float* tap_bounds[kMaxTaps];  // (N) each, bounds of unscaled gradients that are added then
  const float* grows;                 // (), growth in the next convolution; null if there is none
  float room;                         // the largest magnitude allowed after that
  float* result;                      // (4, N): the next scale; that over `scale`; the bound then; zeros
};

// The exponent of a number of at least 0: 128 for infinity and NaN, -127 for zero and what is near it.
PO_HOST_DEVICE int exponent_of(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return static_cast<int>(bits >> 23 & 0xff) - 127;
}

// An exponent that a normal number has.
PO_HOST_DEVICE float power_of_two(int exponent) {
  const uint32_t bits = static_cast<uint32_t>(exponent + 127) << 23;
  float number;
  std::memcpy(&number, &bits, sizeof(bits));
  return number;
}

// The next scale of sample n: the largest power of two by which its gradient stays within the room. Where there is no
// gradient, or one that is not finite, any will do.
PO_HOST_DEVICE void choose_scale(const LossScaling& scaling, int64_t n) {
  const float scale = scaling.scale ? scaling.scale[n] : 1.0f;
  float bound = scaling.bound ? scaling.bound[n] : 0.0f;
  if (scaling.grown) bound *= *scaling.grown;
  bound *= scaling.spread;
  for (int i = 0; i < scaling.taps; ++i) bound += scale * scaling.tap_bounds[i][n];
  const float room = scaling.grows ? scaling.room / *scaling.grows : scaling.room;
  const int exponent = exponent_of(scale) + exponent_of(room / bound);
  const float next = power_of_two(exponent > kMaxExponent    ? kMaxExponent
                                  : exponent < -kMaxExponent ? -kMaxExponent
                                                             : exponent);
  scaling.result[n] = next;
  scaling.result[scaling.batch + n] = next / scale;
  scaling.result[2 * scaling.batch + n] = bound * (next / scale);
  scaling.result[3 * scaling.batch + n] = 0.0f;
}

}  // namespace perceptual_ops
