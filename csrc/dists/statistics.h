// Statistics of a channel and their eps, for every backend. No torch here: .cuh files
// include this.
#pragma once

#include <cstdint>

namespace perceptual_ops {

constexpr int kDistsStatistics = 6;  // means of x, y and x - y, then their variances
constexpr double kDistsEps = 1e-6;   // c1 and c2 of the paper

constexpr int kChannelStatistics = 2;   // mean and standard deviation
constexpr double kDeviationEps = 1e-5;  // added to a variance: the root is differentiable at 0

// How large what a launch leaves between its blocks is, over all layers.
struct MomentSizes {
  int64_t partial;  // moments of pixel ranges
  int64_t groups;   // of channels, of every layer and sample
};

}  // namespace perceptual_ops
