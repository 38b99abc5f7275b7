// The order of blocks and threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace hostcuda {

// SplitMix64: the same sequence for the same seed, with every compiler.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // `bound` up to 2^32.
  size_t below(size_t bound) { return (next() >> 32) * bound >> 32; }

  template <class T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  uint64_t state_;
};

}  // namespace hostcuda
