// Fibers: functions on stacks of their own that give way to each other only where they say so.
//
// makecontext starts a fiber and __builtin_longjmp switches: both come with every gcc, and a switch is a dozen
// instructions (40 million a second), where swapcontext asks the kernel for the signal mask every time (3 million).
#pragma once

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "error.h"
#include "sanitizers.h"

namespace hostcuda {

class Fiber {
 public:
  explicit Fiber(void (*body)()) : body_(body) {
    const size_t page = sysconf(_SC_PAGESIZE);
    void* memory = mmap(nullptr, kBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("hostcuda: no memory for the stack of a thread");
    mprotect(memory, page, PROT_NONE);  // an overflow is a fault, not a neighbour's bug
    mapped_ = memory;
    mapped_bytes_ = kBytes + page;
    stack_.bottom = static_cast<char*>(memory) + page;
    stack_.bytes = kBytes;
    unpoison(const_cast<void*>(stack_.bottom), kBytes);  // the address may have served an abandoned stack
    stack_.created();
  }

  ~Fiber() {
    stack_.destroyed();
    munmap(mapped_, mapped_bytes_);
  }

  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs the fiber until it yields. When its body has returned, the next resume starts it anew.
  HOSTCUDA_SWITCH void resume() {
    current_ = this;
    scheduler_stack_.adopted();
    before_switch(scheduler_stack_, stack_);
    if (!__builtin_setjmp(scheduler_)) {
      if (started_) __builtin_longjmp(here_, 1);
      start();
    }
    after_switch(scheduler_stack_, current_->stack_);
  }

  // Called on a fiber: back to who resumed it.
  HOSTCUDA_SWITCH static void yield() {
    Fiber& self = *current_;
    before_switch(self.stack_, scheduler_stack_);
    if (!__builtin_setjmp(self.here_)) __builtin_longjmp(scheduler_, 1);
    after_switch(current_->stack_, scheduler_stack_);
  }

 private:
  static constexpr size_t kBytes = 128 * 1024;

  HOSTCUDA_SWITCH void start() {
    started_ = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = const_cast<void*>(stack_.bottom);
    context.uc_stack.ss_size = stack_.bytes;
    context.uc_link = nullptr;
    makecontext(&context, &Fiber::entry, 0);
    setcontext(&context);
  }

  HOSTCUDA_SWITCH static void entry() {
    after_switch(current_->stack_, scheduler_stack_);
    for (;;) {
      current_->body_();
      yield();
    }
  }

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
