#include <hostcuda/bank_ledger.h>
#include <hostcuda/block.h>

#include <algorithm>

namespace hostcuda {

void BankLedger::access(Kind kind, const void* caller, const void* address, int bytes) {
  if (!counts || kernel_ == nullptr || !Block::current_block->shared.contains(address)) return;
  const Thread& thread = *Block::current_thread;
  const size_t number = thread.number / kLanes, lane = thread.number % kLanes;
  if (number >= warps_.size()) warps_.resize(number + 1);
  Warp& warp = warps_[number];
  if (warp.meetings != thread.meetings) end_accesses(warp);
  warp.meetings = thread.meetings;
  Accesses& accesses = warp.sites[{caller, kind, bytes}];
  const size_t time = accesses.times[lane]++;
  if (time >= accesses.made.size()) accesses.made.emplace_back();
  accesses.made[time].lanes |= 1u << lane;
  accesses.made[time].addresses[lane] = static_cast<const char*>(address);
}

void BankLedger::end_block() {
  for (Warp& warp : warps_) end_accesses(warp);
  warps_.clear();
}

void BankLedger::end_accesses(Warp& warp) {
  for (auto& [site, accesses] : warp.sites) {
    if (accesses.made.empty()) continue;
    Pattern& pattern = patterns_[{kernel_, site}];
    for (const Access& access : accesses.made) count(access, site.bytes, pattern);
    accesses.times.fill(0);
    accesses.made.clear();
  }
}

// Of lanes that go by themselves: the words asked of the bank of which most are.
int BankLedger::wavefronts(const Access& access, int bytes, int first_lane, int end_lane) {
  std::array<uintptr_t, kBanks> words;
  int asked = 0;
  for (int lane = first_lane; lane < end_lane; ++lane) {
    if (!(access.lanes >> lane & 1)) continue;
    const uintptr_t word = reinterpret_cast<uintptr_t>(access.addresses[lane]) / kWordBytes;
    for (int i = 0; i < std::max(bytes / kWordBytes, 1); ++i) words[asked++] = word + i;
  }
  std::sort(words.begin(), words.begin() + asked);
  std::array<int, kBanks> of_bank{};
  for (const uintptr_t *word = words.data(), *end = std::unique(words.data(), words.data() + asked); word < end;
       ++word) {
    ++of_bank[*word % kBanks];
  }
  return *std::max_element(of_bank.begin(), of_bank.end());
}

void BankLedger::count(const Access& access, int bytes, Pattern& pattern) {
  const int lanes = kLanes * kWordBytes / std::max(bytes, kWordBytes);  // of a phase
  ++pattern.accesses;
  for (int lane = 0; lane < kLanes; lane += lanes) {
    const int needed = wavefronts(access, bytes, lane, lane + lanes);
    pattern.phases += needed > 0;
    pattern.wavefronts += needed;
    pattern.worst = std::max(pattern.worst, needed);
  }
  const char* first = nullptr;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(access.lanes >> lane & 1)) continue;
    if (first == nullptr) first = access.addresses[lane];
    pattern.one_address &= access.addresses[lane] == first;
  }
}

}  // namespace hostcuda
