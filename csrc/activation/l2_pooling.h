// The geometry of DISTS's pooling, the same for every backend. No torch here: .cuh files include this.
#pragma once

#include <cstdint>

namespace perceptual_ops {

constexpr double kL2PoolEps = 1e-12;  // under the root

// Windows of 3 x 3 pixels lie two apart, the first and the last may reach one pixel over the border, where x is 0.
inline int64_t l2_pooled(int64_t side) { return (side - 1) / 2 + 1; }

}  // namespace perceptual_ops
