#include <hostcuda/error.h>
#include <hostcuda/fiber.h>
#include <hostcuda/sanitizers.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

// Functions on both sides of a switch belong to neither stack, and return with memory changed by another.
#define HOSTCUDA_SWITCH __attribute__((noipa))

namespace hostcuda {
namespace {

// Around every switch: before it, on the stack that is left; after it, on the stack that was reached.
HOSTCUDA_SWITCH void before_switch(SanitizedStack& from, const SanitizedStack& to) {
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&from.asan_frames, to.bottom, to.bytes);
  constexpr unsigned kNoSynchronisation = 1;  // a switch orders nothing: only the kernel's barriers do
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to.tsan_fiber, kNoSynchronisation);
}

HOSTCUDA_SWITCH void after_switch(const SanitizedStack& reached, SanitizedStack& left) {
  if (__sanitizer_finish_switch_fiber) {
    __sanitizer_finish_switch_fiber(reached.asan_frames, &left.bottom, &left.bytes);
  }
}

}  // namespace

Fiber::Fiber(void (*body)()) : body_(body) {
  const size_t page = sysconf(_SC_PAGESIZE);
  void* memory = mmap(nullptr, kBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("hostcuda: no memory for the stack of a thread");
  mprotect(memory, page, PROT_NONE);  // an overflow is a fault, not a neighbour's bug
  mapped_ = memory;
  mapped_bytes_ = kBytes + page;
  stack_.bottom = static_cast<char*>(memory) + page;
  stack_.bytes = kBytes;
  unpoison(const_cast<void*>(stack_.bottom), kBytes);  // the address may have served an abandoned stack
  if (__tsan_create_fiber) stack_.tsan_fiber = __tsan_create_fiber(0);
}

Fiber::~Fiber() {
  if (__tsan_destroy_fiber) __tsan_destroy_fiber(stack_.tsan_fiber);
  munmap(mapped_, mapped_bytes_);
}

HOSTCUDA_SWITCH void Fiber::resume() {
  current_ = this;
  if (__tsan_get_current_fiber) scheduler_stack_.tsan_fiber = __tsan_get_current_fiber();
  before_switch(scheduler_stack_, stack_);
  if (!__builtin_setjmp(scheduler_)) {
    if (started_) __builtin_longjmp(here_, 1);
    start();
  }
  after_switch(scheduler_stack_, current_->stack_);
}

HOSTCUDA_SWITCH void Fiber::yield() {
  Fiber& self = *current_;
  before_switch(self.stack_, scheduler_stack_);
  if (!__builtin_setjmp(self.here_)) __builtin_longjmp(scheduler_, 1);
  after_switch(current_->stack_, scheduler_stack_);
}

HOSTCUDA_SWITCH void Fiber::start() {
  started_ = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = const_cast<void*>(stack_.bottom);
  context.uc_stack.ss_size = stack_.bytes;
  context.uc_link = nullptr;
  makecontext(&context, &Fiber::entry, 0);
  setcontext(&context);
}

HOSTCUDA_SWITCH void Fiber::entry() {
  after_switch(current_->stack_, scheduler_stack_);
  for (;;) {
    current_->body_();
    yield();
  }
}

}  // namespace hostcuda
