// A feature map as the kernels see it: (N, C, P) with P = H * W pixels, strided, without a copy.
// No torch here: .cuh files include this.
#pragma once

#include <cstdint>

namespace perceptual_ops {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Which of the two inner axes lies side by side in memory.
enum class Layout : int8_t { kNCHW, kNHWC };

struct FeatureMap {
  int64_t batch;     // N
  int64_t channels;  // C
  int64_t pixels;    // P = H * W
  int64_t stride_n;  // elements; 0 for an expanded batch
  int64_t stride_c;  // elements; 1 in NHWC
  int64_t stride_p;  // elements; 1 in NCHW

  Layout layout() const { return stride_p == 1 ? Layout::kNCHW : Layout::kNHWC; }
  int64_t sample_size() const { return channels * pixels; }
};

}  // namespace perceptual_ops
