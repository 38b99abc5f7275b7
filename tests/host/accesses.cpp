// The traffic build: kernels are compiled for TSan, so that every access to memory calls one of the functions below,
// and linked with this file in TSan's place. Copies that they leave to the C library come by too (--wrap in
// CMakeLists.txt). This file itself is not instrumented.
#include <hostcuda/bank_ledger.h>
#include <hostcuda/ledger.h>

#include <algorithm>
#include <cstring>

using hostcuda::bank_ledger;
using hostcuda::BankLedger;
using hostcuda::ledger;
using hostcuda::Ledger;

namespace {

// One access, as wide as its type is aligned.
void touch(const void* address, int bytes, Ledger::Access access, const void* caller) {
  ledger.touch(address, bytes, access);
  bank_ledger.access(access == Ledger::kRead ? BankLedger::kLoad : BankLedger::kStore, caller, address, bytes);
}

// What is aligned to less than its size goes by words.
void touch_words(const void* address, size_t bytes, Ledger::Access access, const void* caller) {
  constexpr size_t kWord = 4;
  ledger.touch(address, bytes, access);
  for (size_t i = 0; i < bytes; i += kWord) {
    bank_ledger.access(access == Ledger::kRead ? BankLedger::kLoad : BankLedger::kStore, caller,
                       static_cast<const char*>(address) + i, static_cast<int>(std::min(bytes - i, kWord)));
  }
}

}  // namespace

#define CALLER __builtin_return_address(0)

extern "C" {

#define ACCESSES(bytes)                                                                                    \
  void __tsan_read##bytes(void* address) { touch(address, bytes, Ledger::kRead, CALLER); }                 \
  void __tsan_write##bytes(void* address) { touch(address, bytes, Ledger::kWritten, CALLER); }             \
  void __tsan_unaligned_read##bytes(void* address) { touch_words(address, bytes, Ledger::kRead, CALLER); } \
  void __tsan_unaligned_write##bytes(void* address) { touch_words(address, bytes, Ledger::kWritten, CALLER); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void* address, size_t bytes) { touch_words(address, bytes, Ledger::kRead, CALLER); }
void __tsan_write_range(void* address, size_t bytes) { touch_words(address, bytes, Ledger::kWritten, CALLER); }

// What the kernels' files call besides: pointers to virtual functions, counts of references, and locks of statics are
// in no buffer.
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
char __tsan_atomic8_load(const volatile char* address, int) { return __atomic_load_n(address, __ATOMIC_SEQ_CST); }
int __tsan_atomic32_fetch_add(volatile int* address, int value, int) {
  return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}

void* __real_memcpy(void* to, const void* from, size_t bytes);
void* __real_memset(void* to, int value, size_t bytes);

void* __wrap_memcpy(void* to, const void* from, size_t bytes) {
  ledger.touch(from, bytes, Ledger::kRead);
  ledger.touch(to, bytes, Ledger::kWritten);
  return __real_memcpy(to, from, bytes);
}

void* __wrap_memset(void* to, int value, size_t bytes) {
  ledger.touch(to, bytes, Ledger::kWritten);
  return __real_memset(to, value, bytes);
}
}
