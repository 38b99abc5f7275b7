// The shared memory of a block, and the limits of the smallest architecture that the library supports.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "error.h"
#include "memory.h"

namespace hostcuda {

constexpr size_t kStaticSharedLimit = 48 * 1024;
constexpr size_t kSharedLimit = 99 * 1024;  // sm_86 and sm_89, for a block that asks for it

class SharedMemory {
 public:
  explicit SharedMemory(size_t dynamic_bytes) {
    arrays_.push_back({nullptr, "dynamic shared memory", std::make_unique<Guarded>(dynamic_bytes, kGuard)});
    check_limits();
  }

  // Nothing is left of the block before: what a block reads without having written is garbage.
  void begin_block() {
    for (Array& array : arrays_) array.memory->fill_with_garbage();
  }

  void end_block() const {
    for (const Array& array : arrays_) array.memory->check(array.name);
  }

  char* dynamic() const { return arrays_[0].memory->data(); }

  // The array declared at `site`; made when the first thread of the first block comes by. It is aligned as its type
  // says and no better, so that a wide access to it shows.
  char* array(const void* site, const char* name, size_t bytes, size_t alignment) {
    for (Array& array : arrays_) {
      if (array.site == site) return array.memory->data();
    }
    arrays_.push_back({site, std::string("shared array ") + name, std::make_unique<Guarded>(bytes, kGuard, alignment)});
    check_limits();
    return arrays_.back().memory->data();
  }

  bool contains(const void* address) const {
    for (const Array& array : arrays_) {
      if (array.memory->contains(address)) return true;
    }
    return false;
  }

 private:
  static constexpr size_t kGuard = 1024;  // checked after every block

  struct Array {
    const void* site;  // null for the dynamic one, which comes first
    std::string name;
    std::unique_ptr<Guarded> memory;
  };

  void check_limits() const {
    size_t fixed = 0;
    for (const Array& array : arrays_) fixed += &array == &arrays_[0] ? 0 : array.memory->bytes();
    if (fixed > kStaticSharedLimit) {
      fail("shared memory: ", fixed, " bytes of static arrays, at most ", kStaticSharedLimit, " are possible");
    }
    const size_t all = fixed + arrays_[0].memory->bytes();
    if (all > kSharedLimit) {
      fail("shared memory: ", all, " bytes a block, the smallest supported architecture has ", kSharedLimit);
    }
  }

  std::vector<Array> arrays_;
};

}  // namespace hostcuda
