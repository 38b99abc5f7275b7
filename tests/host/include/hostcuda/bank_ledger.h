// Which words of shared memory the lanes of a warp access together, and how often their banks must answer for it, by
// the rule that tests/host/bank_conflicts.py states. Plain accesses are seen in the traffic build alone (accesses.cpp).
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

namespace hostcuda {

// Lanes run one after the other here. What they access at one place in the code, each for the same time since its warp
// last met (at a barrier, or for a collective), is one instruction of their warp.
class BankLedger {
 public:
  enum Kind { kLoad, kStore, kMatrixLoad, kAsyncCopy };

  // What an instruction does, and where.
  struct Site {
    const void* caller;  // the place in a kernel's code
    Kind kind;
    int bytes;  // of a lane

    auto operator<=>(const Site&) const = default;
  };

  // Phases are groups of lanes that banks serve at once where there is no conflict, wavefronts what they need.
  struct Pattern {
    int64_t accesses = 0;  // of warps
    int64_t phases = 0, wavefronts = 0;
    int worst = 0;            // wavefronts of a phase
    bool one_address = true;  // for all lanes of each access
  };

  // In its scope a kernel runs.
  class Kernel {
   public:
    Kernel(BankLedger& ledger, const void* kernel) : ledger_(ledger) { ledger_.kernel_ = kernel; }
    ~Kernel() {
      ledger_.kernel_ = nullptr;
      ledger_.warps_.clear();  // of a block that was stopped
    }
    Kernel(const Kernel&) = delete;
    Kernel& operator=(const Kernel&) = delete;

   private:
    BankLedger& ledger_;
  };

  // By the thread that runs, of shared memory or not.
  void access(Kind kind, const void* caller, const void* address, int bytes);
  void end_block();
  void clear() { patterns_.clear(); }

  // By kernel and site.
  const std::map<std::pair<const void*, Site>, Pattern>& patterns() const { return patterns_; }

  bool counts = false;  // whoever asks for patterns sets it

 private:
  static constexpr int kLanes = 32, kBanks = 32, kWordBytes = 4;

  // Of one instruction of a warp.
  struct Access {
    uint32_t lanes = 0;
    std::array<const char*, kLanes> addresses{};
  };
  // Of one site, since the warp last met.
  struct Accesses {
    std::array<int, kLanes> times{};
    std::vector<Access> made;
  };
  struct Hash {
    size_t operator()(const Site& site) const { return reinterpret_cast<uintptr_t>(site.caller); }
  };
  struct Warp {
    unsigned meetings = 0;
    std::unordered_map<Site, Accesses, Hash> sites;
  };

  void end_accesses(Warp& warp);
  static int wavefronts(const Access& access, int bytes, int first_lane, int end_lane);
  static void count(const Access& access, int bytes, Pattern& pattern);

  const void* kernel_ = nullptr;  // that runs
  std::vector<Warp> warps_;       // of the block that runs
  std::map<std::pair<const void*, Site>, Pattern> patterns_;
};

inline BankLedger bank_ledger;  // of the launch under way, or the last

}  // namespace hostcuda
