// bf16 products on AMX, the matrix unit of Intel's servers since Sapphire Rapids: exact products, fp32 sums.
#pragma once

#include <vector>

#include "../common/cpu.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define PO_AMX
#endif

namespace perceptual_ops {

// Whether this file's classes are part of the build: intrinsics and target attributes are those of gcc on x86-64.
#ifdef PO_AMX
constexpr bool kAmxBuilt = true;
#else
constexpr bool kAmxBuilt = false;
#endif

// Whether processor and system serve AMX; the first call asks the system for it.
bool amx_serves();

// One operand of a tile product, 1 KB: 16 rows of 32 elements.
struct alignas(64) AmxTile {
  BFloat16 element[16 * 32];
};

// X X^T of every sample, unscaled, from blocks of pixels.
class AmxGram {
 public:
  AmxGram(const BFloat16* x, const FeatureMap& map, float* gram) : x_(x), map_(map), gram_(gram) {}

  // Adds the pixels from `first` on; the blocks come in order. The last one makes the Gram symmetric.
  void add(int64_t first, const FeatureMap& block);

 private:
  void pack(int64_t first, const FeatureMap& block);

  const BFloat16* x_;
  FeatureMap map_;
  float* gram_;                          // (N, C, C)
  std::vector<AmxTile> rows_, columns_;  // X and X^T of the block
};

// S X of every sample, from blocks of pixels. S is split into two bf16 numbers, so that it keeps 16 bits.
class AmxGradient {
 public:
  AmxGradient(const float* symmetric, const BFloat16* x, const FeatureMap& map);

  // The pixels from `first` on, into a dense block.
  void product(int64_t first, const FeatureMap& block, float* sum);

 private:
  const BFloat16* x_;
  FeatureMap map_;
  std::vector<AmxTile> high_, low_, block_;
};

}  // namespace perceptual_ops
