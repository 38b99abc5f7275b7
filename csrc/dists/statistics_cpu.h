// The moments of the channels of one layer on the CPU.
#pragma once

#include "../common/cpu.h"
#include "statistics.h"

namespace perceptual_ops {

// The layout in which a layer is walked. A loop over the few channels of an image's pixel would not be worth its start.
inline Layout statistics_layout(const Tensor& x) {  // (N, C, H, W)
  return x.size(1) < 8 ? Layout::kNCHW : layout_of(x);
}

// A map in one layout; one sample stands for every sample.
struct ServedMap {
  Tensor tensor;
  FeatureMap map;

  ServedMap(const Tensor& x, Layout layout)  // (N or 1, C, H, W)
      : tensor(served_as(x, layout)), map(*feature_map(tensor)) {
    if (map.batch == 1) map.stride_n = 0;
  }

  // Run `run` of sample n, or of its pixels from `first` on.
  template <class T>
  const T* at(Layout layout, int64_t n, int64_t run, int64_t first = 0) const {
    return static_cast<const T*>(tensor.data_ptr()) + run_start(map, layout, n, run, first);
  }
};

// Means and variances of the channels of x, -> (N, 2, C), or of x, y and x - y, -> (N, 6, C): means first. Right for
// means much larger than deviations, and for x and y that hardly differ.
std::vector<double> channel_moments(const ServedMap& x,  // (N, C, H, W)
                                    Layout layout);
std::vector<double> channel_moments(const ServedMap& x,  // (N, C, H, W)
                                    const ServedMap& y,  // (N or 1, C, H, W)
                                    Layout layout);

}  // namespace perceptual_ops
