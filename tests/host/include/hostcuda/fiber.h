// Fibers: functions on stacks of their own that give way to each other only where they say so.
//
// makecontext starts a fiber and __builtin_longjmp switches: both come with every gcc, and a switch is a dozen
// instructions (40 million a second), where swapcontext asks the kernel for the signal mask every time (3 million).
#pragma once

#include <cstddef>

namespace hostcuda {

// The stack that a switch leads to, as ASan and TSan know it.
struct SanitizedStack {
  const void* bottom = nullptr;
  size_t bytes = 0;
  void* asan_frames = nullptr;  // kept for the stack while another runs
  void* tsan_fiber = nullptr;
};

class Fiber {
 public:
  explicit Fiber(void (*body)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs the fiber until it yields. When its body has returned, the next resume starts it anew.
  void resume();

  // Called on a fiber: back to who resumed it.
  static void yield();

 private:
  static constexpr size_t kBytes = 128 * 1024;

  void start();
  static void entry();

  // One scheduler: kernels run one after the other, on the thread that launches them.
  inline static Fiber* current_ = nullptr;
  inline static SanitizedStack scheduler_stack_;
  inline static void* scheduler_[5];

  void (*body_)();
  void* mapped_;
  size_t mapped_bytes_;
  SanitizedStack stack_;
  void* here_[5] = {};
  bool started_ = false;
};

}  // namespace hostcuda
