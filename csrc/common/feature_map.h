// A feature map as the kernels see it: (N, C, P) with P = H * W pixels, strided, without a copy.
// No torch here: .cuh files include this.
#pragma once

#include <cstdint>

namespace perceptual_ops {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Which of the two inner axes is contiguous.
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

// Whether every line of a map, what lies side by side in memory, begins at a multiple of 16 bytes.
inline bool has_aligned_lines(const void* data, const FeatureMap& map, int64_t element_bytes) {
  const bool nhwc = map.layout() == Layout::kNHWC;
  const auto aligned = [&](int64_t count, int64_t stride) { return count <= 1 || stride * element_bytes % 16 == 0; };
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && aligned(map.batch, map.stride_n) &&
         (nhwc ? aligned(map.pixels, map.stride_p) : aligned(map.channels, map.stride_c));
}

}  // namespace perceptual_ops
