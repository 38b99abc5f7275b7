// What the feature room does to one layer on the CPU.
#pragma once

#include "../common/arguments.h"
#include "../common/cpu.h"

namespace perceptual_ops {

// Mean (or sum) of the distance over each sample.
void feature_values(const Tensor& features,  // (N, C, H, W)
                    const Tensor& targets,   // (N or 1, C, H, W)
                    DistanceKind kind, double parameter,
                    double* value);  // (N)

// factors[n] * d value[n] / d features, like the features; in the same pass the values, unless null.
Tensor feature_gradient(const Tensor& features,  // (N, C, H, W)
                        const Tensor& targets,   // (N or 1, C, H, W)
                        DistanceKind kind, double parameter,
                        const std::vector<double>& factors,  // (N)
                        double* value);                      // (N)

// The same as a term of a gradient that something else makes.
GradientTerm feature_gradient_term(const Tensor& features,  // (N, C, H, W)
                                   const Tensor& targets,   // (N or 1, C, H, W)
                                   DistanceKind kind, double parameter,
                                   const std::vector<double>& factors);  // (N)

}  // namespace perceptual_ops
