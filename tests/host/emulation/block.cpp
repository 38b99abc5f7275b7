#include <hostcuda/bank_ledger.h>
#include <hostcuda/block.h>
#include <hostcuda/launch.h>

#include <cstring>
#include <numeric>
#include <sstream>
#include <utility>

namespace hostcuda {

Block::Block(dim3 shape, size_t dynamic_shared, std::function<void()> kernel, Random& random)
    : shared(dynamic_shared), kernel_(std::move(kernel)), random_(random) {
  const unsigned threads = shape.x * shape.y * shape.z;
  while (pool().size() < threads) pool().push_back(std::make_unique<Thread>(&Block::thread_body));
  for (unsigned i = 0; i < threads; ++i) {
    Thread& thread = *pool()[i];
    thread.index = {i % shape.x, i / shape.x % shape.y, i / (shape.x * shape.y)};
    thread.number = i;
    threads_.push_back(&thread);
  }
  meetings_.resize((threads + kWarp - 1) / kWarp);
  current_block = this;
}

void Block::run(uint3 index) {
  finished_ = 0;
  shared.begin_block();
  for (Thread* thread : threads_) {
    thread->copies.clear();
    thread->meetings = 0;
  }
  ready_ = threads_;
  ::blockIdx = index;
  release(&started_);
  {
    Quiet quiet;  // threads read what is written here at every switch
    while (!ready_.empty()) {
      run_one();
      if (failure_) stop(failure_);
    }
    if (finished_ < threads_.size()) stop(std::make_exception_ptr(Error(why_stuck())));
  }
  acquire(&ended_);
  shared.end_block();
  bank_ledger.end_block();
}

void Block::barrier(const Place& place) {
  const int turn = barrier_turn_;
  if (!at_barrier_.empty() && !(barrier_place_ == place)) {
    fail("divergent barrier: __syncthreads at ", name_of(place), " while ", at_barrier_.size(),
         " threads wait in the one at ", name_of(barrier_place_));
  }
  release(&barrier_turns_[turn]);
  {
    Quiet quiet;  // TSan sees what the C library copies, whoever asks
    barrier_place_ = place;
    ++current_thread->meetings;
    at_barrier_.push_back(current_thread);
    if (at_barrier_.size() == threads_.size()) {
      barrier_turn_ = 1 - turn;
      ready_.insert(ready_.end(), at_barrier_.begin(), at_barrier_.end());
      at_barrier_.clear();
    }
  }
  Fiber::yield();
  acquire(&barrier_turns_[turn]);
}

void Block::collective(const char* name, unsigned mask, const Place& place, void* operands,
                       void (*compute)(const Lanes&)) {
  {
    Quiet quiet;  // as above; `compute` may be compiled with the kernels, too
    std::vector<Meeting>& meetings = meetings_[current_thread->number / kWarp];
    const auto meeting = join(meetings, name, mask, place, operands);
    ++current_thread->meetings;
    if (meeting->arrived == mask) {
      compute(meeting->operands);
      ready_.insert(ready_.end(), meeting->waiting.begin(), meeting->waiting.begin() + meeting->count);
      meetings.erase(meeting);
    }
  }
  Fiber::yield();
}

std::vector<std::unique_ptr<Thread>>& Block::pool() {
  static std::vector<std::unique_ptr<Thread>> threads;
  return threads;
}

void Block::thread_body() {
  Block& block = *current_block;
  acquire(&block.started_);
  try {
    block.kernel_();
  } catch (...) {
    block.failed();
  }
  release(&block.ended_);
  ++block.finished_;
}

void Block::failed() {
  try {
    throw;
  } catch (const Error& error) {
    std::ostringstream sentence;
    sentence << error.what() << " [thread " << threadIdx.x << ", " << threadIdx.y << ", " << threadIdx.z << " of block "
             << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z << "]";
    failure_ = std::make_exception_ptr(Error(sentence.str()));
  } catch (...) {
    failure_ = std::current_exception();
  }
}

void Block::run_one() {
  std::swap(ready_[random_.below(ready_.size())], ready_.back());
  current_thread = ready_.back();
  ready_.pop_back();
  ::threadIdx = current_thread->index;
  current_thread->fiber.resume();
}

void Block::stop(std::exception_ptr why) {
  pool().clear();
  std::rethrow_exception(why);
}

std::vector<Meeting>::iterator Block::join(std::vector<Meeting>& meetings, const char* name, unsigned mask,
                                           const Place& place, void* operands) {
  const int lane = current_thread->lane();
  if (!(mask >> lane & 1)) fail(name, " at ", name_of(place), ": lane ", lane, " is not in its own mask");
  auto meeting = meetings.begin();
  while (meeting != meetings.end() && !(meeting->mask & mask)) ++meeting;
  if (meeting == meetings.end()) meeting = meetings.insert(meeting, Meeting{name, place, mask});
  if (meeting->mask != mask || std::strcmp(meeting->name, name) || !(meeting->place == place)) {
    fail("divergent warp: ", name, " at ", name_of(place), " of lane ", lane, " while others wait in ", meeting->name,
         " at ", name_of(meeting->place));
  }
  meeting->arrived |= 1u << lane;
  meeting->operands[lane] = operands;
  meeting->waiting[meeting->count++] = current_thread;
  return meeting;
}

std::string Block::why_stuck() const {
  std::ostringstream sentence;
  if (!at_barrier_.empty()) {
    sentence << "divergent barrier: __syncthreads at " << name_of(barrier_place_) << " reached by "
             << at_barrier_.size() << " of " << threads_.size() << " threads, " << finished_ << " returned; ";
  }
  for (const std::vector<Meeting>& warp : meetings_) {
    for (const Meeting& meeting : warp) {
      sentence << "missing lanes: " << meeting.name << " at " << name_of(meeting.place) << " reached by lanes "
               << std::hex << "0x" << meeting.arrived << " of 0x" << meeting.mask << std::dec << "; ";
    }
  }
  sentence << "[block " << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z << "]";
  return sentence.str();
}

namespace {

void check_launch_limits(dim3 grid, dim3 block) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (threads == 0 || threads > 1024 || block.z > 64) {
    fail("launch: ", block.x, " x ", block.y, " x ", block.z,
         " threads a block, expected 1 to 1024, at most 64 along z");
  }
  if (blocks == 0 || grid.x > INT32_MAX || grid.y > UINT16_MAX || grid.z > UINT16_MAX) {
    fail("launch: a grid of ", grid.x, " x ", grid.y, " x ", grid.z,
         " blocks, expected at least 1 and at most 2^31 - 1 x 65535 x 65535");
  }
}

}  // namespace

void run_grid(const void* called, dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel) {
  check_launch_limits(grid, block);
  ::gridDim = grid;
  ::blockDim = block;
  std::vector<uint64_t> blocks(uint64_t(grid.x) * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0);
  order().shuffle(blocks);
  Block executed(block, shared_bytes, std::move(kernel), order());
  const Ledger::Kernel recorded(ledger);
  const BankLedger::Kernel watched(bank_ledger, called);
  for (const uint64_t i : blocks) {
    executed.run({unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)});
  }
}

}  // namespace hostcuda
