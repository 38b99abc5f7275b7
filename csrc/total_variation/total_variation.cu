#include "../common/feature_map.h"
#include "../common/launch.h"
#include "total_variation.cuh"

namespace perceptual_ops {
namespace {

// Only the two distances that a variation is made of.
template <class F>
void dispatch_variation(Distance distance, F&& f) {
  if (distance == Distance::kL1) return f(std::integral_constant<Distance, Distance::kL1>{});
  f(std::integral_constant<Distance, Distance::kSquared>{});
}

// Calls f(width, step), both integral constants: packs where every row begins at a multiple of 16 bytes and the step is
// one that kernels are compiled for, else single elements.
template <class T, class F>
void dispatch_walk(const ImageRows& rows, const void* x, const void* dx, F&& f) {
  constexpr int kWidth = kPackWidth<T>;
  const bool packed =
      begins_packed<T>(x, rows.batch, rows.stride_n) && begins_packed<T>(dx) && rows.length % kWidth == 0;
  if (packed && rows.step == 1) return f(std::integral_constant<int, kWidth>{}, std::integral_constant<int, 1>{});
  if constexpr (kWidth >= 3) {
    if (packed && rows.step == 3) return f(std::integral_constant<int, kWidth>{}, std::integral_constant<int, 3>{});
  }
  f(std::integral_constant<int, 1>{}, std::integral_constant<int, kAnyStep>{});
}

int64_t strip_rows_of(const ImageRows& rows) { return ceil_div(rows.height, kStripRows); }

int64_t strips_of(const ImageRows& rows, int64_t width) {
  return rows.planes * strip_rows_of(rows) * (rows.length / width);
}

}  // namespace

int64_t total_variation_slots(const ImageRows& rows) { return ceil_div(strips_of(rows, 1), kVariationThreads); }

cudaError_t launch_total_variation(Element element, Wanted wanted, const ImageRows& rows, Distance distance,
                                   const void* x, const VariationValues& values, const void* grad, void* dx,
                                   cudaStream_t stream) {
  const bool fits = fits_grid(strips_of(rows, 1)) && fits_grid(rows.batch * total_variation_slots(rows)) &&
                    fits_grid(rows.height + kStripRows) && fits_grid(rows.length + rows.step);
  if (!fits) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    dispatch_walk<T>(rows, x, dx, [&](auto width, auto step) {
      const int64_t count = strips_of(rows, width);
      const Strips strips{static_cast<int>(rows.height),
                          static_cast<int>(rows.length),
                          static_cast<int>(rows.step),
                          static_cast<uint32_t>(rows.length / width),
                          static_cast<uint32_t>(strip_rows_of(rows)),
                          static_cast<uint32_t>(count),
                          static_cast<uint32_t>(ceil_div(count, kVariationThreads))};
      dispatch_variation(distance, [&](auto kind) {
        dispatch_wanted(wanted, [&](auto pass) {
          launch_kernel(total_variation_kernel<T, decltype(kind)::value, decltype(pass)::value, decltype(width)::value,
                                               decltype(step)::value>,
                        rows.batch * strips.blocks, kVariationThreads, 0, stream, x, rows.stride_n, rows.size(), strips,
                        grad, dx, values.partial, values.arrivals, values.values);
        });
      });
    });
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
