// The barriers and collectives that kernels call. Collectives: the last lane to come computes for all.
#pragma once

#include <bit>
#include <cstring>

#include "block.h"

namespace hostcuda {

// The 32 or 64 bits that lane `source` brings.
uint32_t exchange(const char* name, unsigned mask, uint32_t bits, int source, const Place& place);
uint64_t exchange(const char* name, unsigned mask, uint64_t bits, int source, const Place& place);

template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, const Place& place) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  return std::bit_cast<T>(exchange(name, mask, std::bit_cast<Bits>(value), source, place));
}

unsigned ballot(unsigned mask, bool vote, const Place& place);

// Every lane releases an object of its own and acquires those of all the others.
void sync_warp(unsigned mask, const Place& place);

inline int current_lane() {
  Quiet quiet;
  return Block::current_thread->lane();
}

}  // namespace hostcuda

inline void __syncthreads(hostcuda::Place place = hostcuda::Place::current()) {
  hostcuda::Block::current_block->barrier(place);
}

inline void __syncwarp(unsigned mask = ~0u, hostcuda::Place place = hostcuda::Place::current()) {
  hostcuda::sync_warp(mask, place);
}

inline unsigned __ballot_sync(unsigned mask, bool vote, hostcuda::Place place = hostcuda::Place::current()) {
  return hostcuda::ballot(mask, vote, place);
}

// Where the source lane lies outside the lane's own group of `width`, a lane keeps its value.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = hostcuda::kWarp,
              hostcuda::Place place = hostcuda::Place::current()) {
  const int group = hostcuda::current_lane() / width * width;
  return hostcuda::shuffle("__shfl_sync", mask, value, group + source % width, place);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = hostcuda::kWarp,
                 hostcuda::Place place = hostcuda::Place::current()) {
  const int lane = hostcuda::current_lane(), source = lane - int(delta);
  return hostcuda::shuffle("__shfl_up_sync", mask, value, source < lane / width * width ? lane : source, place);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = hostcuda::kWarp,
                   hostcuda::Place place = hostcuda::Place::current()) {
  const int lane = hostcuda::current_lane(), source = lane + int(delta);
  return hostcuda::shuffle("__shfl_down_sync", mask, value, source >= (lane / width + 1) * width ? lane : source,
                           place);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = hostcuda::kWarp,
                  hostcuda::Place place = hostcuda::Place::current()) {
  const int lane = hostcuda::current_lane(), source = lane ^ lane_mask;
  return hostcuda::shuffle("__shfl_xor_sync", mask, value, source >= (lane / width + 1) * width ? lane : source, place);
}
