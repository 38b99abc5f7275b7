// One way to fail: a sentence that names the argument, what was expected and what came.
// Python has checked the arguments before; these are the checks that memory safety needs.
#pragma once

#include <sstream>
#include <stdexcept>

namespace perceptual_ops {

template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw std::runtime_error(sentence.str());
}

}  // namespace perceptual_ops
