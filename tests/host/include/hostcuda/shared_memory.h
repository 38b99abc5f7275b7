// The shared memory of a block, and the limits of the smallest architecture that the library supports.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "memory.h"

namespace hostcuda {

constexpr size_t kStaticSharedLimit = 48 * 1024;
constexpr size_t kSharedLimit = 99 * 1024;  // sm_86 and sm_89, for a block that asks for it

class SharedMemory {
 public:
  explicit SharedMemory(size_t dynamic_bytes);

  // Nothing is left of the block before: what a block reads without having written is garbage.
  void begin_block();
  void end_block() const;

  char* dynamic() const { return arrays_[0].memory->data(); }

  // The array declared at `site`; made when the first thread of the first block comes by. It is aligned as its type
  // says and no better, so that a wide access to it shows.
  char* array(const void* site, const char* name, size_t bytes, size_t alignment);

  bool contains(const void* address) const;

 private:
  static constexpr size_t kGuard = 1024;  // checked after every block

  struct Array {
    const void* site;  // null for the dynamic one, which comes first
    std::string name;
    std::unique_ptr<Guarded> memory;
  };

  void check_limits() const;

  std::vector<Array> arrays_;
};

}  // namespace hostcuda
