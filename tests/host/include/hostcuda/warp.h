// The barriers and collectives that kernels call. Collectives: the last lane to come computes for all.
#pragma once

#include <array>
#include <cstring>

#include "block.h"

namespace hostcuda {

using Lanes = std::array<void*, kWarp>;  // null where a lane takes no part

// One lane's part in a shuffle or a vote.
template <class T, class Result = T>
struct Exchange {
  T brought;
  int source;  // lane whose value this one takes home
  Result result;
};

template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, const Place& place) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  Exchange<T> mine{value, source, {}};
  Block::current_block->collective(name, mask, place, &mine, [](const Lanes& lanes) {
    for (void* lane : lanes) {
      if (lane == nullptr) continue;
      auto& exchange = *static_cast<Exchange<T>*>(lane);
      const void* source = lanes[exchange.source];
      std::memset(&exchange.result, Guarded::kGarbage, sizeof(T));  // undefined where the source takes no part
      if (source != nullptr) exchange.result = static_cast<const Exchange<T>*>(source)->brought;
    }
  });
  return mine.result;
}

inline unsigned ballot(unsigned mask, bool vote, const Place& place) {
  Exchange<bool, unsigned> mine{vote, 0, 0};
  Block::current_block->collective("__ballot_sync", mask, place, &mine, [](const Lanes& lanes) {
    unsigned votes = 0;
    for (int lane = 0; lane < kWarp; ++lane) {
      if (lanes[lane] && static_cast<Exchange<bool, unsigned>*>(lanes[lane])->brought) votes |= 1u << lane;
    }
    for (void* lane : lanes) {
      if (lane != nullptr) static_cast<Exchange<bool, unsigned>*>(lane)->result = votes;
    }
  });
  return mine.result;
}

// Every lane releases an object of its own and acquires those of all the others.
inline void sync_warp(unsigned mask, const Place& place) {
  struct Part {
    char* released;
    std::array<char*, kWarp> all;  // what every lane released: a lane may be gone when another looks
  } mine;
  {
    Quiet quiet;
    Thread& thread = *Block::current_thread;
    mine.released = &thread.warp_turns[thread.warp_turn];
    thread.warp_turn = 1 - thread.warp_turn;
  }
  release(mine.released);
  Block::current_block->collective("__syncwarp", mask, place, &mine, [](const Lanes& lanes) {
    std::array<char*, kWarp> all{};
    for (int lane = 0; lane < kWarp; ++lane) {
      if (lanes[lane] != nullptr) all[lane] = static_cast<Part*>(lanes[lane])->released;
    }
    for (void* lane : lanes) {
      if (lane != nullptr) static_cast<Part*>(lane)->all = all;
    }
  });
  for (char* released : mine.all) {
    if (released != nullptr) acquire(released);
  }
}

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
