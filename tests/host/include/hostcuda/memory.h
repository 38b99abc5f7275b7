// Memory that a kernel may touch, between two guard zones.
#pragma once

#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "error.h"
#include "sanitizers.h"

namespace hostcuda {

// Guards hold garbage, which a plain build finds overwritten afterwards; ASan stops at the access itself. Garbage is
// NaN in every float format, so that what was read but never written shows in the results.
class Guarded {
 public:
  static constexpr int kGarbage = 0xff;

  // 256-byte aligned, as what cudaMalloc returns, and then `shift` bytes on. `guard` is a multiple of the alignment.
  Guarded(size_t bytes, size_t guard, size_t shift = 0)
      : bytes_(bytes),
        guard_(guard),
        shift_(shift),
        storage_(new (std::align_val_t(kAlignment)) char[guard + shift + bytes + guard]) {
    std::memset(begin(), kGarbage, end() - begin());
    poison_guards();
  }

  ~Guarded() { unpoison(begin(), end() - begin()); }

  char* data() const { return begin() + guard_ + shift_; }
  size_t bytes() const { return bytes_; }
  void fill_with_garbage() { std::memset(data(), kGarbage, bytes_); }
  bool contains(const void* address) const { return data() <= address && address < data() + bytes_; }

  // Fails where a guard was written.
  void check(const std::string& name) const;

 private:
  static constexpr size_t kAlignment = 256;
  struct Delete {
    void operator()(char* memory) const { operator delete[](memory, std::align_val_t(kAlignment)); }
  };

  char* begin() const { return storage_.get(); }
  char* end() const { return data() + bytes_ + guard_; }

  void poison_guards() const {
    poison(begin(), data() - begin());
    poison(data() + bytes_, guard_);
  }

  size_t bytes_, guard_, shift_;
  std::unique_ptr<char[], Delete> storage_;
};

}  // namespace hostcuda
