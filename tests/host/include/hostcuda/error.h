// Errors of an executed kernel: one sentence, thrown through its launcher to Python as a RuntimeError.
#pragma once

#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace hostcuda {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw Error(sentence.str());
}

// Where a kernel called: "gram.cuh:85".
using Place = std::source_location;

inline std::string name_of(const Place& place) {
  const std::string_view path = place.file_name();
  return std::string(path.substr(path.rfind('/') + 1)) + ":" + std::to_string(place.line());
}

inline bool operator==(const Place& a, const Place& b) {
  return a.line() == b.line() && (a.file_name() == b.file_name() || std::string_view(a.file_name()) == b.file_name());
}

}  // namespace hostcuda
