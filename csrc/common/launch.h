// What launchers share. No torch.
#pragma once

#include <cstdint>

namespace perceptual_ops {

// Blocks are counted along x, whose limit is 2^31 - 1.
inline bool fits_grid(int64_t blocks) { return blocks <= INT32_MAX; }

}  // namespace perceptual_ops
