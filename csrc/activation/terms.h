// Arguments that the launchers of a trunk's activations share. Plain pointers, shapes in comments; no torch. `Acc` is
// fp32, or fp64 for fp64 maps; E = C * H * W elements of a dense channels_last sample.
#pragma once

#include <cstdint>

namespace perceptual_ops {

// A batch of dense channels_last maps.
struct MapShape {
  int64_t batch;     // N
  int64_t channels;  // C
  int64_t height;    // H
  int64_t width;     // W

  int64_t size() const { return channels * height * width; }  // E
};

// What is added by channel, in the maps' dtype or in Acc: at most one of the two is there.
struct BiasPointers {
  const void* narrow;  // (C), or null
  const void* wide;    // (C) Acc, or null
};

// What a backward pass makes of a gradient d: (signs ? factor * d + tap : 0) + below.
struct BackwardTerms {
  const uint8_t* signs;  // (N, ceil(E / 8)), or null for all set
  const void* tap;       // (N, E), or null; may be the map that is written
  const void* below;     // (N, E), or null
  const void* factor;    // (N) Acc, or null for ones
  void* maxima;          // (N) Acc, raised to the largest magnitude of each sample; or null
};

}  // namespace perceptual_ops
