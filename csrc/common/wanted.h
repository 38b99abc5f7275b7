// What one pass over the data computes.
#pragma once

#include <cstdint>
#include <type_traits>

namespace perceptual_ops {

enum class Wanted : int8_t { kValue, kGradient, kBoth };

template <Wanted kWanted>
constexpr bool kWantsValue = kWanted != Wanted::kGradient;
template <Wanted kWanted>
constexpr bool kWantsGradient = kWanted != Wanted::kValue;

// Calls f(std::integral_constant<Wanted, ...>).
template <class F>
void dispatch_wanted(Wanted wanted, F&& f) {
  switch (wanted) {
    case Wanted::kValue:
      return f(std::integral_constant<Wanted, Wanted::kValue>{});
    case Wanted::kGradient:
      return f(std::integral_constant<Wanted, Wanted::kGradient>{});
    case Wanted::kBoth:
      return f(std::integral_constant<Wanted, Wanted::kBoth>{});
  }
}

}  // namespace perceptual_ops
