// bf16 products on AMX, the matrix unit of Intel's servers since Sapphire Rapids: exact products, fp32 sums.
#pragma once

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

// X X^T of every sample, unscaled.
void amx_gram(const BFloat16* x, const FeatureMap& map,
              float* gram);  // (N, C, C)

// S X of every sample, plus `other` unless null, all maps in one layout. S is split into two bf16 numbers, so that it
// keeps 16 bits.
void amx_gradient(const float* symmetric,  // (N, C, C)
                  const BFloat16* x, const FeatureMap& map, const BFloat16* other, const FeatureMap& other_map,
                  BFloat16* out, const FeatureMap& out_map);

}  // namespace perceptual_ops
