// Arguments of one launch: numpy arrays in, guarded memory under the kernel, numpy arrays out.
#pragma once

#include <hostcuda/bank_ledger.h>
#include <hostcuda/launch.h>
#include <hostcuda/memory.h>
#include <hostcuda/mutants.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "common/arguments.h"
#include "common/element.h"
#include "common/feature_map.h"
#include "common/wanted.h"

// Where the module's file lies in memory, says the linker.
extern "C" [[gnu::visibility("hidden")]] const char __ehdr_start[];

namespace perceptual_ops {

namespace py = pybind11;
using py::literals::operator""_a;

// (N, C, P, strides of the three in elements)
inline FeatureMap feature_map(const std::array<int64_t, 6>& numbers) {
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]};
}

inline Wanted wanted_named(const std::string& name) {
  if (name == "value") return Wanted::kValue;
  if (name == "gradient") return Wanted::kGradient;
  if (name == "both") return Wanted::kBoth;
  throw std::invalid_argument("wanted: got " + name);
}

// The memory that a launch sees, and its checks. fp16 and bfloat16 arrive as the bits they are.
class Arguments {
 public:
  // `seed` draws the order of blocks and threads.
  Arguments(const std::string& element, uint64_t seed) : element_(element_named(element)) {
    hostcuda::order() = hostcuda::Random(seed);
    hostcuda::ledger.clear();
    hostcuda::bank_ledger.clear();
  }

  Element element() const { return element_; }

  // A copy of `contents`, which the kernel must leave as it is.
  const void* input(const char* name, const py::array& contents) {
    Buffer& buffer = add(name, contents.nbytes(), contents.dtype());
    std::memcpy(buffer.memory->data(), contents.data(), contents.nbytes());
    buffer.original.assign(buffer.memory->data(), contents.nbytes());
    return buffer.memory->data();
  }

  // A copy of `contents` that the kernel may change.
  void* changed(const char* name, const py::array& contents) {
    Buffer& buffer = add(name, contents.nbytes(), contents.dtype());
    std::memcpy(buffer.memory->data(), contents.data(), contents.nbytes());
    return buffer.memory->data();
  }

  // Room for `count` numbers of the accumulation type, garbage so far.
  void* accumulators(const char* name, int64_t count) {
    const py::dtype type(element_ == Element::kFloat64 ? "float64" : "float32");
    return add(name, count * type.itemsize(), type).memory->data();
  }

  // Room for `count` elements of the maps, of 32-bit words, and of bytes, garbage so far.
  void* elements(const char* name, int64_t count) {
    return add(name, count * element_size(), py::dtype(element_size() == 2 ? "int16" : "float32")).memory->data();
  }
  void* words(const char* name, int64_t count) {
    return add(name, count * sizeof(uint32_t), py::dtype("uint32")).memory->data();
  }

  uint8_t* bytes(const char* name, int64_t count) {
    return reinterpret_cast<uint8_t*>(add(name, count, py::dtype("uint8")).memory->data());
  }

  // Zeros, to be counted up.
  uint32_t* counters(const char* name, int64_t count) {
    void* zeros = add(name, count * sizeof(uint32_t), py::dtype("uint32")).memory->data();
    return static_cast<uint32_t*>(std::memset(zeros, 0, count * sizeof(uint32_t)));
  }

  // The pointer `elements` on from the beginning of a map.
  template <class Pointer>
  Pointer at(Pointer begin, int64_t elements) const {
    const int64_t bytes = elements * element_size();
    return static_cast<std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char*, char*>>(begin) +
           bytes;
  }

  // To be called once, after the launch.
  void check(cudaError_t status) const {
    if (status != cudaSuccess) hostcuda::fail("the launcher refused: error ", status);
    for (const Buffer& buffer : buffers_) {
      buffer.memory->check(buffer.name);
      if (!buffer.original.empty() &&
          buffer.original.compare(0, std::string::npos, buffer.memory->data(), buffer.memory->bytes()) != 0) {
        hostcuda::fail(buffer.name, ": written, though it is an input");
      }
    }
  }

  py::array result(const void* pointer) const {
    for (const Buffer& buffer : buffers_) {
      if (buffer.memory->data() != pointer) continue;
      const py::ssize_t count = buffer.memory->bytes() / buffer.type.itemsize();
      return py::array(buffer.type, {count}, {}, buffer.memory->data());
    }
    throw std::logic_error("result: not a buffer of this launch");
  }

 private:
  static constexpr size_t kGuard = 64 * 1024;  // more than a wrong stride strays in the tests

  struct Buffer {
    std::string name;
    std::unique_ptr<hostcuda::Guarded> memory;
    py::dtype type;
    std::string original;  // of an input
  };

  static Element element_named(const std::string& name) {
    if (name == "float32") return Element::kFloat32;
    if (name == "float64") return Element::kFloat64;
    if (name == "float16") return Element::kFloat16;
    if (name == "bfloat16") return Element::kBFloat16;
    throw std::invalid_argument("element: got " + name);
  }

  int64_t element_size() const { return element_ == Element::kFloat64 ? 8 : element_ == Element::kFloat32 ? 4 : 2; }

  Buffer& add(const char* name, size_t bytes, const py::dtype& type) {
    buffers_.push_back({name, std::make_unique<hostcuda::Guarded>(bytes, kGuard), type, {}});
    hostcuda::ledger.watch(name, buffers_.back().memory->data(), bytes);
    return buffers_.back();
  }

  Element element_;
  std::vector<Buffer> buffers_;
};

// traffic() of a module: what its last launch moved and multiplied, as
// ([(buffer, its bytes, of them read, of them written)], {product: count}). accesses(): to its shared memory, as
// [(kernel, place in its code, kind, bytes of a lane, accesses of warps, phases, wavefronts, those of the worst phase,
// whether all lanes had one address)], code by its address in the module's file. choose() chooses a fault by its
// number.
inline void bind_common(py::module_& m) {
  m.def("choose", [](uint32_t mutant) { hostcuda::chosen = mutant; });
  m.def("count_accesses", [](bool wanted) { hostcuda::bank_ledger.counts = wanted; });
  m.def("accesses", [] {
    const auto in_file = [](const void* code) { return static_cast<const char*>(code) - __ehdr_start; };
    py::list patterns;
    for (const auto& [place, pattern] : hostcuda::bank_ledger.patterns()) {
      const auto& [kernel, site] = place;
      patterns.append(py::make_tuple(in_file(kernel), in_file(site.caller), int(site.kind), site.bytes,
                                     pattern.accesses, pattern.phases, pattern.wavefronts, pattern.worst,
                                     pattern.one_address));
    }
    return patterns;
  });
  m.def("traffic", [] {
    py::list buffers;
    for (const auto& buffer : hostcuda::ledger.buffers()) {
      buffers.append(py::make_tuple(buffer.name, buffer.bytes, buffer.read, buffer.written));
    }
    return py::make_tuple(buffers, hostcuda::ledger.products());
  });
}

}  // namespace perceptual_ops
