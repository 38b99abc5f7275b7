// What a launch moves and multiplies: of each buffer, the bytes that its kernels read and write, and how many products
// its warps ask of the tensor cores. Accesses are seen in the traffic build alone (accesses.cpp), products in all.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace hostcuda {

class Ledger {
 public:
  enum Access : uint8_t { kRead = 1, kWritten = 2 };

  // A byte counts once a kernel, however often it is touched: caches serve it from then on. The kernels of a launch add
  // up, since what one leaves behind must not be taken to be still there for the next.
  struct Buffer {
    std::string name;
    const char* begin;
    size_t bytes;
    std::vector<uint8_t> touched;  // by the kernel that runs; empty where nothing is
    int64_t read = 0, written = 0;
  };

  void watch(const std::string& name, const void* begin, size_t bytes) {
    buffers_.push_back({name, static_cast<const char*>(begin), bytes, {}});
    first_ = std::min(first_, buffers_.back().begin);
    last_ = std::max(last_, buffers_.back().begin + bytes);
  }

  void clear() {
    buffers_.clear();
    products_.clear();
    first_ = reinterpret_cast<const char*>(UINTPTR_MAX);
    last_ = nullptr;
  }

  void count_product(const char* name) { ++products_[name]; }

  const std::vector<Buffer>& buffers() const { return buffers_; }
  const std::map<std::string, int64_t>& products() const { return products_; }

  // In its scope a kernel runs.
  class Kernel {
   public:
    explicit Kernel(Ledger& ledger) : ledger_(ledger) { ledger_.open_ = true; }
    ~Kernel() {
      ledger_.open_ = false;
      for (Buffer& buffer : ledger_.buffers_) {
        for (const uint8_t byte : buffer.touched) {
          buffer.read += (byte & kRead) != 0;
          buffer.written += (byte & kWritten) != 0;
        }
        buffer.touched.clear();
      }
    }
    Kernel(const Kernel&) = delete;
    Kernel& operator=(const Kernel&) = delete;

   private:
    Ledger& ledger_;
  };

  void touch(const void* address, size_t bytes, Access access) {
    const char* first = static_cast<const char*>(address);
    if (first < first_ || last_ <= first || !open_) return;  // most are of stacks
    open_ = false;                                           // what is called here may be instrumented itself
    for (Buffer& buffer : buffers_) {
      if (first < buffer.begin || buffer.begin + buffer.bytes <= first) continue;
      buffer.touched.resize(buffer.bytes);
      const size_t offset = first - buffer.begin;
      uint8_t* touched = buffer.touched.data() + offset;
      for (size_t i = 0; i < std::min(bytes, buffer.bytes - offset); ++i) touched[i] |= access;
      break;
    }
    open_ = true;
  }

 private:
  std::vector<Buffer> buffers_;
  std::map<std::string, int64_t> products_;
  const char* first_ = reinterpret_cast<const char*>(UINTPTR_MAX);
  const char* last_ = nullptr;  // between which all buffers lie
  bool open_ = false;
};

inline Ledger ledger;  // of the launch under way, or the last

}  // namespace hostcuda
