// The (C, C) work between a Gram's forward and backward products on the CPU.
#pragma once

#include <vector>

#include "../common/arguments.h"
#include "../common/cpu.h"

namespace perceptual_ops {

// factor * (D + D^T) of every sample, contiguous: the target Gram need not be symmetric, so D need not be either.
Tensor symmetrised(const Tensor& slopes,  // (N, C, C)
                   double factor);

// The distances of N Grams to their targets: value[n] is the distance of sample n, and every raw Gram G is overwritten
// with the symmetric S of factors[n] * d value[n] / d X = S X.
void finish_grams(const Tensor& raw,      // (N, C, C), the products, overwritten
                  const Tensor& targets,  // (N or 1, C, C)
                  double scale,           // of the raw Gram
                  DistanceKind kind, double parameter,
                  const std::vector<double>& factors,  // (N)
                  double* value);                      // (N)

// out[n] = factors[n] * matrix[n]; `out` may be `matrices` itself.
void scale_samples(const Tensor& matrices,              // (N, C, C), contiguous
                   const std::vector<double>& factors,  // (N)
                   const Tensor& out);                  // (N, C, C), contiguous

}  // namespace perceptual_ops
