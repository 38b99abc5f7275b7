#include "packed_cpu.h"

#include <algorithm>
#include <cstring>

#include "../common/cpu.h"

namespace perceptual_ops {
namespace {

// Eight bytes 0 or 1 to eight bits: each product of the multiplication lands on a bit of its own, those of the highest
// byte in order.
PO_CPU_CLONES void pack_bits(const uint8_t* bytes, int64_t groups, uint8_t* packed) {
#pragma omp simd
  for (int64_t i = 0; i < groups; ++i) {
    uint64_t word;
    std::memcpy(&word, bytes + 8 * i, 8);
    packed[i] = static_cast<uint8_t>(word * 0x0102040810204080u >> 56);
  }
}

// Each bit stays where it is, in a byte of its own.
PO_CPU_CLONES void unpack_bits(const uint8_t* packed, int64_t groups, uint8_t* bytes) {
#pragma omp simd
  for (int64_t i = 0; i < groups; ++i) {
    const uint64_t word = packed[i] * 0x0101010101010101u & 0x8040201008040201u;
    std::memcpy(bytes + 8 * i, &word, 8);
  }
}

PO_CPU_CLONES void pack_nibbles(const uint8_t* bytes, int64_t groups, uint8_t* packed) {
#pragma omp simd
  for (int64_t i = 0; i < groups; ++i) {
    uint16_t pair;
    std::memcpy(&pair, bytes + 2 * i, 2);
    packed[i] = static_cast<uint8_t>(pair | pair >> 4);
  }
}

PO_CPU_CLONES void unpack_nibbles(const uint8_t* packed, int64_t groups, uint8_t* bytes) {
#pragma omp simd
  for (int64_t i = 0; i < groups; ++i) {
    const uint16_t pair = (packed[i] | packed[i] << 4) & 0x0f0f;
    std::memcpy(bytes + 2 * i, &pair, 2);
  }
}

}  // namespace

void pack_signs(uint8_t* signs, int64_t count, uint8_t* packed) {
  const int64_t groups = ceil_div(count, 8);
  std::fill(signs + count, signs + 8 * groups, uint8_t{0});
  pack_bits(signs, groups, packed);
}

const uint8_t* unpack_signs(const uint8_t* packed, int64_t first, int64_t count, uint8_t* buffer) {
  unpack_bits(packed + first / 8, ceil_div(first % 8 + count, 8), buffer);
  return buffer + first % 8;
}

void pack_codes(uint8_t* codes, int64_t count, int64_t bits, uint8_t* packed) {
  if (bits == 8) {
    std::copy_n(codes, count, packed);
    return;
  }
  codes[count] = 0;
  pack_nibbles(codes, ceil_div(count, 2), packed);
}

const uint8_t* unpack_codes(const uint8_t* packed, int64_t first, int64_t count, int64_t bits, uint8_t* buffer) {
  if (bits == 8) return packed + first;
  unpack_nibbles(packed + first / 2, ceil_div(first % 2 + count, 2), buffer);
  return buffer + first % 2;
}

}  // namespace perceptual_ops
