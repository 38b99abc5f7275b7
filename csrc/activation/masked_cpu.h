// Epilogue of every backward through a ReLU: applied to a block of the gradient before it is stored.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "../common/cpu.h"
#include "arguments.h"
#include "packed_cpu.h"

namespace perceptual_ops {

// out = (passes ? factor * d + tap : 0) + below -> the bits of the largest magnitude as stored. As integers they rise
// with the magnitude, NaN above all.
#define PO_STORE_MASKED(D, T)                                                                                   \
  uint64_t store_masked(const D* d, Accumulator<T> factor, const T* tap, const uint8_t* passes, const T* below, \
                        T* out, int64_t count)
PO_STORE_MASKED(float, float);
PO_STORE_MASKED(double, double);
PO_STORE_MASKED(Half, Half);
PO_STORE_MASKED(BFloat16, BFloat16);
PO_STORE_MASKED(float, Half);
PO_STORE_MASKED(float, BFloat16);

// What an operand that is not given is read from: no branch in the loops.
template <class T>
inline const std::vector<T> kZeros(kBlock, T(0));
inline const std::vector<uint8_t> kAllPass(kBlock, 1);

// What is read beside the gradient of a map, dense in NHWC order, or nothing.
class Operand {
 public:
  Operand() = default;
  explicit Operand(const std::optional<Tensor>& map) {  // (N, C, H, W)
    if (map) map_ = dense_samples(*map, Layout::kNHWC);
  }

  // Its elements from `first` on of sample n, of at most kBlock.
  template <class T>
  const T* at(int64_t n, int64_t first) const {
    return map_ ? static_cast<const T*>(map_->data_ptr()) + n * map_->stride(0) + first : kZeros<T>.data();
  }

 private:
  std::optional<Tensor> map_;
};

// out = (signs ? gain * factor * d + tap : 0) + below for a map whose gradient d comes block by block.
template <class T>
class Masked {
 public:
  Masked(const Tensor& out,                    // (N, C, H, W), dense in channels_last
         const std::optional<Tensor>& signs,   // (N, ceil(C H W / 8)), all set where not given
         const std::optional<Tensor>& tap,     // (N, C, H, W), may be `out`
         const std::optional<Tensor>& below,   // (N, C, H, W)
         const std::optional<Tensor>& factor,  // (N), ones where not given
         double gain)
      : out_(static_cast<T*>(out.data_ptr())),
        sample_size_(out.size(1) * out.size(2) * out.size(3)),
        factor_(weighted_upstream(gain, factor ? to_doubles(*factor) : std::vector<double>(out.size(0), 1.0))),
        tap_(tap),
        below_(below) {
    if (signs) signs_ = torch::stable::contiguous(*signs);
  }

  // Elements first, ..., first + count - 1 of sample n, of any count; returns as store_masked.
  template <class D>
  uint64_t store(int64_t n, int64_t first, int64_t count, const D* d) const {
    const auto factor = static_cast<Accumulator<T>>(factor_[n]);
    uint64_t largest = 0;
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int64_t at = first + begin, length = std::min(kBlock, count - begin);
      uint8_t buffer[unpacked_size(kBlock)];
      largest = std::max(largest, store_masked(d + begin, factor, tap_.at<T>(n, at), passes(n, at, length, buffer),
                                               below_.at<T>(n, at), out_ + n * sample_size_ + at, length));
    }
    return largest;
  }

 private:
  const uint8_t* passes(int64_t n, int64_t first, int64_t count, uint8_t* buffer) const {
    if (!signs_) return kAllPass.data();
    const auto* packed = static_cast<const uint8_t*>(signs_->data_ptr());
    return unpack_signs(packed + n * signs_->size(1), first, count, buffer);
  }

  T* out_;
  int64_t sample_size_;
  std::vector<double> factor_;
  Operand tap_, below_;
  std::optional<Tensor> signs_;
};

template <class T>
using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;

// Raises the largest magnitude of each sample of x, where it is wanted, to those of its parts.
inline void raise_maxima(const Tensor& x,                        // (N, C, H, W)
                         const std::vector<uint64_t>& parts,     // N x the same number, as store_masked returns them
                         const std::optional<Tensor>& maxima) {  // (N)
  if (!maxima) return;
  const int64_t batch = x.size(0);
  dispatch_dtype(x, "grad", [&](auto element) {
    using T = decltype(element);
    auto* const largest = static_cast<Accumulator<T>*>(maxima->data_ptr());
    for (int64_t n = 0; n < batch; ++n) {
      const auto first = parts.begin() + n * (parts.size() / batch);
      const auto bits = static_cast<Bits<T>>(*std::max_element(first, first + parts.size() / batch));
      T stored;
      std::memcpy(&stored, &bits, sizeof(T));
      const auto number = static_cast<Accumulator<T>>(stored);
      if (number > largest[n] || std::isnan(number)) largest[n] = number;  // NaN is above all, and stays
    }
  });
}

}  // namespace perceptual_ops
