// One block of threads: each is a fiber that runs until it waits at a barrier or for its warp. Which of the threads
// that could go on does so is drawn at random.
#pragma once

#include <array>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "async_copies.h"
#include "builtins.h"
#include "error.h"
#include "fiber.h"
#include "random.h"
#include "sanitizers.h"
#include "shared_memory.h"

namespace hostcuda {

constexpr int kWarp = 32;

using Lanes = std::array<void*, kWarp>;  // null where a lane takes no part

struct Thread {
  explicit Thread(void (*body)()) : fiber(body) {}

  int lane() const { return number % kWarp; }

  Fiber fiber;
  uint3 index{};
  int number = 0;  // in the block
  AsyncCopies copies;
  char warp_turns[2] = {};  // released before a __syncwarp, in turns
  int warp_turn = 0;
  unsigned meetings = 0;  // barriers and collectives that it has come to in this block
};

// A warp collective that waits for lanes.
struct Meeting {
  const char* name;
  Place place;
  unsigned mask;
  unsigned arrived = 0;
  Lanes operands{};                      // of the lanes that have arrived
  std::array<Thread*, kWarp> waiting{};  // in the order in which they came
  int count = 0;
};

class Block {
 public:
  Block(dim3 shape, size_t dynamic_shared, std::function<void()> kernel, Random& random);

  // Runs every thread of the block to its end.
  void run(uint3 index);

  void barrier(const Place& place);

  // Waits for the lanes of `mask`; the last one calls compute(operands of every lane) for all.
  void collective(const char* name, unsigned mask, const Place& place, void* operands, void (*compute)(const Lanes&));

  inline static Block* current_block = nullptr;
  inline static Thread* current_thread = nullptr;

  SharedMemory shared;

 private:
  // Stacks are kept for the next block; those of a block that was stopped are thrown away.
  static std::vector<std::unique_ptr<Thread>>& pool();

  static void thread_body();
  void failed();
  void run_one();
  [[noreturn]] void stop(std::exception_ptr why);

  // The meeting that the current thread takes part in, new or waiting for it.
  static std::vector<Meeting>::iterator join(std::vector<Meeting>& meetings, const char* name, unsigned mask,
                                             const Place& place, void* operands);

  // No thread can go on, and some have not finished.
  std::string why_stuck() const;

  std::function<void()> kernel_;
  Random& random_;
  std::vector<Thread*> threads_, ready_, at_barrier_;
  std::vector<std::vector<Meeting>> meetings_;  // of each warp
  Place barrier_place_;
  size_t finished_ = 0;
  std::exception_ptr failure_;

  // Objects that TSan sees released and acquired. Barriers take turns with two: with one, what a quick thread releases
  // on its way into the next barrier would reach the slow ones that still leave this one, and hide their races.
  char started_ = 0, ended_ = 0, barrier_turns_[2] = {};
  int barrier_turn_ = 0;
};

}  // namespace hostcuda
