// What DISTS keeps of a channel and adds to its divisors, the same for every backend. No torch here: .cuh files include
// this.
#pragma once

namespace perceptual_ops {

constexpr int kDistsStatistics = 6;  // means of x, y and x - y, then their variances
constexpr double kDistsEps = 1e-6;   // c1 and c2 of the paper

}  // namespace perceptual_ops
