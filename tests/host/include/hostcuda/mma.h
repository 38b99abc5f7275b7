// csrc/common/mma.cuh on the host; emulation/mma.cpp says which lane holds which element.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "bank_ledger.h"
#include "check_access.h"
#include "warp.h"

namespace hostcuda {

struct MmaOperands {
  float* sums;
  const uint32_t *a, *b;
};

// The new sums of every lane; counted in the ledger.
void multiply_fp16(const Lanes& lanes);
void multiply_bf16(const Lanes& lanes);
void multiply_tf32(const Lanes& lanes);

inline void mma(const char* name, float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Place& place,
                void (*multiply)(const Lanes&)) {
  MmaOperands mine{sums, a, b};
  Block::current_block->collective(name, ~0u, place, &mine, multiply);
}

// What one lane reads for ldmatrix and what it takes home.
struct MatrixRows {
  volatile uint16_t row[8];
  uint32_t* fragments;
};

// Fragments of the four matrices for every lane.
void distribute(const Lanes& lanes, bool transpose);

template <bool kTranspose>
void load_matrices(uint32_t (&fragments)[4], const void* shared_row, const Place& place) {
  MatrixRows mine{{}, fragments};
  check_shared("load_matrices", shared_row, place);
  check_aligned("load_matrices", shared_row, place);
  // Every lane reads its own row, so that TSan knows whose read it is.
  for (int i = 0; i < 8; ++i) mine.row[i] = static_cast<const volatile uint16_t*>(shared_row)[i];
  Block::current_block->collective("load_matrices", ~0u, place, &mine,
                                   [](const Lanes& lanes) { distribute(lanes, kTranspose); });
}

}  // namespace hostcuda

namespace perceptual_ops {

template <class T>
void mma_16x8x16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                 hostcuda::Place place = hostcuda::Place::current()) {
  constexpr bool kIsHalf = std::is_same_v<T, __half>;
  hostcuda::mma("mma_16x8x16", sums, a, b, place, kIsHalf ? hostcuda::multiply_fp16 : hostcuda::multiply_bf16);
}

inline void mma_16x8x8_tf32(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                            hostcuda::Place place = hostcuda::Place::current()) {
  hostcuda::mma("mma_16x8x8_tf32", sums, a, b, place, hostcuda::multiply_tf32);
}

template <bool kTranspose>
void load_matrices(uint32_t (&fragments)[4], const void* shared_row,
                   hostcuda::Place place = hostcuda::Place::current()) {
  hostcuda::bank_ledger.access(hostcuda::BankLedger::kMatrixLoad, __builtin_return_address(0), shared_row, 16);
  hostcuda::load_matrices<kTranspose>(fragments, shared_row, place);
}

}  // namespace perceptual_ops
