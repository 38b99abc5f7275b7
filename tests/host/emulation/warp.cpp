#include <hostcuda/warp.h>

namespace hostcuda {
namespace {

// One lane's part in a shuffle or a vote.
template <class T, class Result = T>
struct Exchange {
  T brought;
  int source;  // lane whose value this one takes home
  Result result;
};

template <class T>
T exchanged(const char* name, unsigned mask, T value, int source, const Place& place) {
  Exchange<T> mine{value, source, {}};
  Block::current_block->collective(name, mask, place, &mine, [](const Lanes& lanes) {
    for (void* lane : lanes) {
      if (lane == nullptr) continue;
      auto& exchange = *static_cast<Exchange<T>*>(lane);
      const void* source = lanes[exchange.source];
      exchange.result = source ? static_cast<const Exchange<T>*>(source)->brought : ~T(0);  // or undefined
    }
  });
  return mine.result;
}

}  // namespace

uint32_t exchange(const char* name, unsigned mask, uint32_t bits, int source, const Place& place) {
  return exchanged(name, mask, bits, source, place);
}

uint64_t exchange(const char* name, unsigned mask, uint64_t bits, int source, const Place& place) {
  return exchanged(name, mask, bits, source, place);
}

unsigned ballot(unsigned mask, bool vote, const Place& place) {
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

void sync_warp(unsigned mask, const Place& place) {
  struct Part {
    char* released;
    std::array<char*, kWarp> all;  // what every lane released: a lane may be gone when another looks
  } mine;
  Thread& thread = *Block::current_thread;
  mine.released = &thread.warp_turns[thread.warp_turn];
  thread.warp_turn = 1 - thread.warp_turn;
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

}  // namespace hostcuda
