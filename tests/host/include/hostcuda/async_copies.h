// The copies that a thread has under way: cp.async.
#pragma once

#include <cstdint>
#include <vector>

#include "sanitizers.h"

namespace hostcuda {

// The worst that the hardware may do: the destination is garbage from the moment of issue, which shows who still reads
// what was there before, and has its data only when the wait returns, which shows who reads too soon.
class AsyncCopies {
 public:
  static constexpr int kBytes = 16;

  // `bytes` from memory, zeros in the rest of the 16.
  void issue(void* to, const void* from, int bytes) {
    constexpr uint64_t kGarbage = ~uint64_t(0);
    store(to, kGarbage, kGarbage);
    Quiet quiet;
    copies_.push_back({to, from, bytes});
  }

  void commit() {
    Quiet quiet;
    ends_.push_back(copies_.size());
  }

  // Until at most `pending` of the committed groups are under way.
  void wait(size_t pending) {
    Copy copy;
    while (take(pending, copy)) finish(copy);
  }

  void clear() {
    copies_.clear();
    ends_.clear();
    finished_ = 0;
  }

 private:
  struct Copy {
    void* to;
    const void* from;
    int bytes;
  };

  // The next copy that must be finished.
  bool take(size_t pending, Copy& copy) {
    Quiet quiet;
    while (ends_.size() > pending) {
      if (finished_ < ends_.front()) {
        copy = copies_[finished_++];
        return true;
      }
      ends_.erase(ends_.begin());
    }
    if (ends_.empty() && finished_ == copies_.size()) clear();
    return false;
  }

  static void finish(const Copy& copy) {
    uint64_t words[2] = {0, 0};
    const volatile char* from = static_cast<const volatile char*>(copy.from);
    for (int i = 0; i < copy.bytes; ++i) reinterpret_cast<char*>(words)[i] = from[i];
    store(copy.to, words[0], words[1]);
  }

  // Plain stores: TSan does not see those of a memset.
  static void store(void* to, uint64_t low, uint64_t high) {
    volatile uint64_t* words = static_cast<volatile uint64_t*>(to);
    words[0] = low;
    words[1] = high;
  }

  std::vector<Copy> copies_;  // since nothing was under way
  std::vector<size_t> ends_;  // of the committed groups in it
  size_t finished_ = 0;       // of the copies
};

}  // namespace hostcuda
