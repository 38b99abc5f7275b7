#include <hostcuda/memory.h>

#include <algorithm>

namespace hostcuda {

void Guarded::check(const std::string& name) const {
  unpoison(begin(), end() - begin());
  const auto written = [](char byte) { return static_cast<unsigned char>(byte) != kGarbage; };
  // Each byte like the one before it: much faster than to look for the one that is not.
  const auto untouched = [&](const char* first, const char* last) {
    return !written(*first) && std::memcmp(first, first + 1, last - first - 1) == 0;
  };
  if (!untouched(begin(), data())) {
    const char* before = std::find_if(begin(), data(), written);
    fail(name, ": written from byte ", data() - before, " before its beginning on");
  }
  if (!untouched(data() + bytes_, end())) {
    const char* after = std::find_if(data() + bytes_, end(), written);
    fail(name, ": written at byte ", after - (data() + bytes_), " after its end");
  }
  poison_guards();
}

}  // namespace hostcuda
