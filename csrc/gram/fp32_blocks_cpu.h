// The products of a Gram and of its gradient with fp32 sums, by our own microkernels: the order of sums depends on the
// shape alone, and no fp32 copy of the map is made.
#pragma once

#include "../common/cpu.h"

namespace perceptual_ops {

// X X^T of every sample, unscaled, for T of float, Half and BFloat16.
template <class T>
void block_gram(const T* x, const FeatureMap& map,
                float* gram);  // (N, C, C)

// S X of every sample, for T of Half and BFloat16, plus `other` where that is not null, all maps of one layout.
template <class T>
void block_gradient(const float* symmetric,  // (N, C, C)
                    const T* x, const FeatureMap& map, const T* other, const FeatureMap& other_map, T* out,
                    const FeatureMap& out_map);

}  // namespace perceptual_ops
