// Signs and codes: a byte each in computations, packed in memory. A sample's begin at a whole
// byte, in the order of a channels_last map, lowest bits first.
#pragma once

#include <cstdint>

namespace perceptual_ops {

// Bytes that a buffer for `count` unpacked signs or codes must hold: whole packed bytes are unpacked.
constexpr int64_t unpacked_size(int64_t count) { return count + 16; }

// Zeros and ones to bits. Reads and clears the bytes behind the last one, up to a whole packed byte.
void pack_signs(uint8_t* signs, int64_t count, uint8_t* packed);

// Signs first, ..., first + count - 1 of a sample, 0 where nothing passes; -> where in `buffer` they begin.
const uint8_t* unpack_signs(const uint8_t* packed, int64_t first, int64_t count, uint8_t* buffer);

// The same for codes of four or eight bits.
void pack_codes(uint8_t* codes, int64_t count, int64_t bits, uint8_t* packed);
const uint8_t* unpack_codes(const uint8_t* packed, int64_t first, int64_t count, int64_t bits, uint8_t* buffer);

}  // namespace perceptual_ops
