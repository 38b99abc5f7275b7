// What blocks of one launch say to each other.
#pragma once

#include <algorithm>

#include "sanitizers.h"

// Blocks run one after the other and threads take turns, so that nothing comes between the read and the write. As in
// CUDA's pattern of fence, barrier and atomic, whoever adds later sees what was written before.
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  hostcuda::release(address);
  hostcuda::acquire(address);
  hostcuda::Quiet quiet;
  const unsigned before = *address;
  *address = before + value;
  return before;
}

template <class Number>
Number atomicMax(Number* address, Number value) {
  hostcuda::release(address);
  hostcuda::acquire(address);
  hostcuda::Quiet quiet;
  const Number before = *address;
  *address = std::max(before, value);
  return before;
}

inline void __threadfence() {}
