// What the sanitizers must be told about fibers, guard zones and barriers. Nothing in a plain build.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_THREAD__) && !defined(HOSTCUDA_TRAFFIC)  // accesses.cpp takes TSan's place there
#define HOSTCUDA_TSAN
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HOSTCUDA_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_ignore_thread_begin();  // not in the header
extern "C" void __tsan_ignore_thread_end();
#endif

namespace hostcuda {

// ASan: memory that nobody may touch, or may touch again.
inline void poison([[maybe_unused]] void* begin, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(begin, bytes);
#endif
}

inline void unpoison([[maybe_unused]] void* begin, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(begin, bytes);
#endif
}

// TSan: what happened before a release is seen after an acquire of the same object.
inline void release([[maybe_unused]] void* object) {
#ifdef HOSTCUDA_TSAN
  __tsan_release(object);
#endif
}

inline void acquire([[maybe_unused]] void* object) {
#ifdef HOSTCUDA_TSAN
  __tsan_acquire(object);
#endif
}

// Functions on both sides of a switch: they belong to neither stack, and return with memory changed by another.
#define HOSTCUDA_SWITCH __attribute__((noipa, no_sanitize("address", "thread")))

// TSan: the emulation's own bookkeeping, in its scope, is not the kernel's. Must end before the fiber is left.
class Quiet {
 public:
#ifdef HOSTCUDA_TSAN
  Quiet() { __tsan_ignore_thread_begin(); }
  ~Quiet() { __tsan_ignore_thread_end(); }
#else
  Quiet() {}  // not trivial, so that compilers do not call it unused
#endif
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};

// The stack that a switch leads to, as ASan and TSan know it.
struct SanitizedStack {
  const void* bottom = nullptr;
  size_t bytes = 0;
  void* asan_frames = nullptr;  // kept for the stack while another runs
  void* tsan_fiber = nullptr;

  void created() {
#ifdef HOSTCUDA_TSAN
    tsan_fiber = __tsan_create_fiber(0);
#endif
  }

  void destroyed() {
#ifdef HOSTCUDA_TSAN
    __tsan_destroy_fiber(tsan_fiber);
#endif
  }

  // The stack on which the process itself runs.
  HOSTCUDA_SWITCH void adopted() {
#ifdef HOSTCUDA_TSAN
    tsan_fiber = __tsan_get_current_fiber();
#endif
  }
};

// Around every switch: before it, on the stack that is left; after it, on the stack that was reached.
HOSTCUDA_SWITCH inline void before_switch([[maybe_unused]] SanitizedStack& from, [[maybe_unused]] SanitizedStack& to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from.asan_frames, to.bottom, to.bytes);
#endif
#ifdef HOSTCUDA_TSAN
  constexpr unsigned kNoSynchronisation = 1;  // a switch orders nothing: only the kernel's barriers do
  __tsan_switch_to_fiber(to.tsan_fiber, kNoSynchronisation);
#endif
}

HOSTCUDA_SWITCH inline void after_switch([[maybe_unused]] SanitizedStack& reached,
                                         [[maybe_unused]] SanitizedStack& left) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(reached.asan_frames, &left.bottom, &left.bytes);
#endif
}

}  // namespace hostcuda
