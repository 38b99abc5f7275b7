// Which of the faults of tests/host/mutants.py is chosen.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <type_traits>

namespace hostcuda {

inline uint32_t chosen_mutant() {
  const char* number = std::getenv("HOSTCUDA_MUTANT");
  return number ? static_cast<uint32_t>(std::strtoul(number, nullptr, 10)) : 0;
}

inline const uint32_t chosen = chosen_mutant();

// What the compiler works out has no faults.
constexpr bool mutated(uint32_t number) { return !std::is_constant_evaluated() && chosen == number; }

}  // namespace hostcuda
