// csrc/common/launch.h on the host: the blocks of a grid, one after the other in a random order.
#pragma once

#include <cuda_runtime_api.h>

#include <numeric>
#include <vector>

#include "block.h"
#include "ledger.h"

namespace hostcuda {

// The order of blocks and threads in the launches that follow.
inline Random& order() {
  static Random random(0);
  return random;
}

inline void check_launch_limits(dim3 grid, dim3 block) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (threads == 0 || threads > 1024 || block.z > 64) {
    fail("launch: ", block.x, " x ", block.y, " x ", block.z,
         " threads a block, expected 1 to 1024, at most 64 along z");
  }
  if (blocks == 0 || grid.x > INT32_MAX || grid.y > UINT16_MAX || grid.z > UINT16_MAX) {
    fail("launch: a grid of ", grid.x, " x ", grid.y, " x ", grid.z,
         " blocks, expected at least 1 and at most 2^31 - 1 x 65535 x 65535");
  }
}

inline void run_grid(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel) {
  check_launch_limits(grid, block);
  ::gridDim = grid;
  ::blockDim = block;
  std::vector<uint64_t> blocks(uint64_t(grid.x) * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0);
  order().shuffle(blocks);
  Block executed(block, shared_bytes, std::move(kernel), order());
  const Ledger::Kernel recorded(ledger);
  for (const uint64_t i : blocks) {
    executed.run({unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)});
  }
}

}  // namespace hostcuda

namespace perceptual_ops {

template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared_bytes, cudaStream_t,
                   const Arguments&... arguments) {
  if (blocks < 0 || blocks > INT32_MAX) hostcuda::fail("launch: ", blocks, " blocks, expected 1 to 2^31 - 1");
  hostcuda::run_grid(static_cast<unsigned>(blocks), threads, shared_bytes,
                     [=] { kernel(static_cast<Parameters>(arguments)...); });
}

}  // namespace perceptual_ops
