// What the sanitizers must be told about fibers, guard zones and barriers: nothing where the module has none of them.
//
// The emulation is compiled once, for every configuration, and without a sanitizer. So their functions are weak here:
// null in a module that is linked without them.
#pragma once

#include <cstddef>

extern "C" {
[[gnu::weak]] void __asan_poison_memory_region(const volatile void*, size_t);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void*, size_t);
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** kept_frames, const void* bottom, size_t bytes);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* frames, const void** bottom, size_t* bytes);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void*);
[[gnu::weak]] void __tsan_switch_to_fiber(void*, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void*);
[[gnu::weak]] void __tsan_release(void*);
[[gnu::weak]] void __tsan_ignore_thread_begin();
[[gnu::weak]] void __tsan_ignore_thread_end();
}

namespace hostcuda {

// ASan: memory that nobody may touch, or may touch again.
inline void poison(void* begin, size_t bytes) {
  if (__asan_poison_memory_region) __asan_poison_memory_region(begin, bytes);
}

inline void unpoison(void* begin, size_t bytes) {
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(begin, bytes);
}

// TSan: what happened before a release is seen after an acquire of the same object.
inline void release(void* object) {
  if (__tsan_release) __tsan_release(object);
}

inline void acquire(void* object) {
  if (__tsan_acquire) __tsan_acquire(object);
}

// TSan: what is done in its scope is not the kernel's. Must end before the fiber is left.
class Quiet {
 public:
  Quiet() {
    if (__tsan_ignore_thread_begin) __tsan_ignore_thread_begin();
  }
  ~Quiet() {
    if (__tsan_ignore_thread_end) __tsan_ignore_thread_end();
  }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};

}  // namespace hostcuda
