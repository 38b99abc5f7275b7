#include <hostcuda/check_access.h>
#include <hostcuda/error.h>
#include <hostcuda/shared_memory.h>

namespace hostcuda {

SharedMemory::SharedMemory(size_t dynamic_bytes) {
  arrays_.push_back({nullptr, "dynamic shared memory", std::make_unique<Guarded>(dynamic_bytes, kGuard)});
  check_limits();
}

void SharedMemory::begin_block() {
  for (Array& array : arrays_) array.memory->fill_with_garbage();
}

void SharedMemory::end_block() const {
  for (const Array& array : arrays_) array.memory->check(array.name);
}

char* SharedMemory::array(const void* site, const char* name, size_t bytes, size_t alignment) {
  for (Array& array : arrays_) {
    if (array.site == site) return array.memory->data();
  }
  arrays_.push_back({site, std::string("shared array ") + name, std::make_unique<Guarded>(bytes, kGuard, alignment)});
  check_limits();
  return arrays_.back().memory->data();
}

bool SharedMemory::contains(const void* address) const {
  for (const Array& array : arrays_) {
    if (array.memory->contains(address)) return true;
  }
  return false;
}

void SharedMemory::check_limits() const {
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

void fail_misaligned(const char* name, const void* address, const Place& place) {
  fail("misaligned access: ", name, " at ", name_of(place), " of an address that is ",
       reinterpret_cast<uintptr_t>(address) % 16, " bytes past a multiple of 16");
}

void check_shared(const char* name, const void* address, const Place& place) {
  if (!Block::current_block->shared.contains(address)) {
    fail(name, " at ", name_of(place), ": the address is not in the block's shared memory");
  }
}

void check_global(const char* name, const void* address, const Place& place) {
  if (Block::current_block->shared.contains(address)) {
    fail(name, " at ", name_of(place), ": the address is in the block's shared memory, expected global memory");
  }
}

}  // namespace hostcuda
