// csrc/common/async_copy.cuh on the host.
#pragma once

#include "bank_ledger.h"
#include "check_access.h"

namespace hostcuda {

inline AsyncCopies& copies_of_this_thread() {
  Quiet quiet;
  return Block::current_thread->copies;
}

}  // namespace hostcuda

namespace perceptual_ops {

inline void copy_async(void* to_shared, const void* from_global, int bytes = 16,
                       hostcuda::Place place = hostcuda::Place::current()) {
  hostcuda::check_shared("copy_async", to_shared, place);
  hostcuda::check_aligned("copy_async", to_shared, place);
  hostcuda::check_aligned("copy_async", from_global, place);
  if (bytes < 0 || bytes > 16)
    hostcuda::fail("copy_async at ", hostcuda::name_of(place), ": ", bytes, " bytes, expected 0 to 16");
  hostcuda::bank_ledger.access(hostcuda::BankLedger::kAsyncCopy, __builtin_return_address(0), to_shared, 16);
  hostcuda::copies_of_this_thread().issue(to_shared, from_global, bytes);
}

inline void commit_copies() { hostcuda::copies_of_this_thread().commit(); }

template <int kPending>
void wait_copies() {
  hostcuda::copies_of_this_thread().wait(kPending);
}

}  // namespace perceptual_ops
