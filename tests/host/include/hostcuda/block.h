// One block of threads: each is a fiber that runs until it waits at a barrier or for its warp. Which of the threads
// that could go on does so is drawn at random.
#pragma once

#include <array>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <utility>
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

struct Thread {
  explicit Thread(void (*body)()) : fiber(body) {}

  int lane() const { return number % kWarp; }

  Fiber fiber;
  uint3 index{};
  int number = 0;  // in the block
  AsyncCopies copies;
  char warp_turns[2] = {};  // released before a __syncwarp, in turns
  int warp_turn = 0;
};

// A warp collective that waits for lanes.
struct Meeting {
  const char* name;
  Place place;
  unsigned mask;
  unsigned arrived = 0;
  std::array<void*, kWarp> operands{};  // of the lanes that have arrived
  std::vector<Thread*> waiting{};
};

class Block {
 public:
  Block(dim3 shape, size_t dynamic_shared, std::function<void()> kernel, Random& random)
      : shared(dynamic_shared), kernel_(std::move(kernel)), random_(random) {
    const unsigned threads = shape.x * shape.y * shape.z;
    while (pool().size() < threads) pool().push_back(std::make_unique<Thread>(&Block::thread_body));
    for (unsigned i = 0; i < threads; ++i) {
      Thread& thread = *pool()[i];
      thread.index = {i % shape.x, i / shape.x % shape.y, i / (shape.x * shape.y)};
      thread.number = i;
      threads_.push_back(&thread);
    }
    meetings_.resize((threads + kWarp - 1) / kWarp);
    current_block = this;
  }

  // Runs every thread of the block to its end.
  void run(uint3 index) {
    finished_ = 0;
    shared.begin_block();
    for (Thread* thread : threads_) thread->copies = {};
    ready_ = threads_;
    ::blockIdx = index;
    release(&started_);
    {
      Quiet quiet;  // threads read what is written here at every switch
      while (!ready_.empty()) {
        run_one();
        if (failure_) stop(failure_);
      }
      if (finished_ < threads_.size()) stop(std::make_exception_ptr(Error(why_stuck())));
    }
    acquire(&ended_);
    shared.end_block();
  }

  void barrier(const Place& place) {
    const int turn = barrier_turn_;
    {
      Quiet quiet;
      if (!at_barrier_.empty() && !(barrier_place_ == place)) {
        fail("divergent barrier: __syncthreads at ", name_of(place), " while ", at_barrier_.size(),
             " threads wait in the one at ", name_of(barrier_place_));
      }
      barrier_place_ = place;
      at_barrier_.push_back(current_thread);
    }
    release(&barrier_turns_[turn]);
    {
      Quiet quiet;
      if (at_barrier_.size() == threads_.size()) {
        barrier_turn_ = 1 - turn;
        wake(at_barrier_);
      }
    }
    Fiber::yield();
    acquire(&barrier_turns_[turn]);
  }

  // Waits for the lanes of `mask`; the last one calls compute(operands of every lane) for all.
  template <class Compute>
  void collective(const char* name, unsigned mask, const Place& place, void* operands, Compute&& compute) {
    {
      Quiet quiet;
      std::vector<Meeting>& meetings = meetings_[current_thread->number / kWarp];
      const auto meeting = join(meetings, {name, place, mask}, operands);
      if (meeting->arrived == mask) {
        compute(meeting->operands);
        wake(meeting->waiting);
        meetings.erase(meeting);
      }
    }
    Fiber::yield();
  }

  inline static Block* current_block = nullptr;
  inline static Thread* current_thread = nullptr;

  SharedMemory shared;

 private:
  // Stacks are kept for the next block; those of a block that was stopped are thrown away.
  static std::vector<std::unique_ptr<Thread>>& pool() {
    static std::vector<std::unique_ptr<Thread>> threads;
    return threads;
  }

  static void thread_body() {
    Block& block = of_this_thread();
    acquire(&block.started_);
    try {
      block.kernel_();
    } catch (...) {
      block.failed();
    }
    release(&block.ended_);
    Quiet quiet;
    ++block.finished_;
  }

  static Block& of_this_thread() {
    Quiet quiet;
    return *current_block;
  }

  void failed() {
    Quiet quiet;
    try {
      throw;
    } catch (const Error& error) {
      std::ostringstream sentence;
      sentence << error.what() << " [thread " << threadIdx.x << ", " << threadIdx.y << ", " << threadIdx.z
               << " of block " << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z << "]";
      failure_ = std::make_exception_ptr(Error(sentence.str()));
    } catch (...) {
      failure_ = std::current_exception();
    }
  }

  void run_one() {
    std::swap(ready_[random_.below(ready_.size())], ready_.back());
    current_thread = ready_.back();
    ready_.pop_back();
    ::threadIdx = current_thread->index;
    current_thread->fiber.resume();
  }

  [[noreturn]] void stop(std::exception_ptr why) {
    pool().clear();
    std::rethrow_exception(why);
  }

  void wake(std::vector<Thread*>& waiting) {
    ready_.insert(ready_.end(), waiting.begin(), waiting.end());
    waiting.clear();
  }

  // The meeting that the current thread takes part in, new or waiting for it.
  static std::vector<Meeting>::iterator join(std::vector<Meeting>& meetings, Meeting mine, void* operands) {
    const int lane = current_thread->lane();
    if (!(mine.mask >> lane & 1)) {
      fail(mine.name, " at ", name_of(mine.place), ": lane ", lane, " is not in its own mask");
    }
    auto meeting = meetings.begin();
    while (meeting != meetings.end() && !(meeting->mask & mine.mask)) ++meeting;
    if (meeting == meetings.end()) meeting = meetings.insert(meeting, mine);
    if (meeting->mask != mine.mask || std::strcmp(meeting->name, mine.name) || !(meeting->place == mine.place)) {
      fail("divergent warp: ", mine.name, " at ", name_of(mine.place), " of lane ", lane, " while others wait in ",
           meeting->name, " at ", name_of(meeting->place));
    }
    meeting->arrived |= 1u << lane;
    meeting->operands[lane] = operands;
    meeting->waiting.push_back(current_thread);
    return meeting;
  }

  // No thread can go on, and some have not finished.
  std::string why_stuck() const {
    std::ostringstream sentence;
    if (!at_barrier_.empty()) {
      sentence << "divergent barrier: __syncthreads at " << name_of(barrier_place_) << " reached by "
               << at_barrier_.size() << " of " << threads_.size() << " threads, " << finished_ << " returned; ";
    }
    for (const std::vector<Meeting>& warp : meetings_) {
      for (const Meeting& meeting : warp) {
        sentence << "missing lanes: " << meeting.name << " at " << name_of(meeting.place) << " reached by lanes "
                 << std::hex << "0x" << meeting.arrived << " of 0x" << meeting.mask << std::dec << "; ";
      }
    }
    sentence << "[block " << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z << "]";
    return sentence.str();
  }

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
