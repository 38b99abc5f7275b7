// The kernels of tests/host/primitives for numpy.
#include "primitives/primitives.h"

#include "arguments.h"

using namespace perceptual_ops;

PYBIND11_MODULE(primitives, m) {
  bind_common(m);
  m.def(
      "run",
      [](const std::string& name, int64_t blocks, int threads, int shared_bytes, const py::array& in,
         const py::array& out, uint64_t seed) {
        Arguments memory("float32", seed);
        const auto* words = static_cast<const uint32_t*>(memory.input("in", in));
        auto* results = static_cast<uint32_t*>(memory.changed("out", out));
        memory.check(launch_primitive(name, blocks, threads, shared_bytes, words, results, nullptr));
        return memory.result(results);
      },
      "name"_a, "blocks"_a, "threads"_a, "shared_bytes"_a, "in"_a, "out"_a, "seed"_a);
}
