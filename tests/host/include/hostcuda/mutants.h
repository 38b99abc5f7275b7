// Which of the faults of tests/host/mutants.py is chosen.
#pragma once

#include <cstdint>
#include <type_traits>

#include "builtins.h"

namespace hostcuda {

inline uint32_t chosen = 0;

// What the compiler works out has no faults.
constexpr bool mutated(uint32_t number) { return !std::is_constant_evaluated() && chosen == number; }

// `value` as the type of the expression that it stands for; the place itself where both are places of one type.
template <class Type, class Value>
__forceinline__ constexpr decltype(auto) like(Value&& value) {
  using Plain = std::remove_cvref_t<Type>;
  if constexpr (std::is_same_v<Type, Value&>) {
    return static_cast<Type>(value);
  } else {
    return static_cast<Plain>(value);
  }
}

}  // namespace hostcuda
