// The launchers of the total variation for numpy, with the allocations of
// csrc/total_variation/total_variation_cuda.cpp.
#include "total_variation/total_variation.h"

#include "arguments.h"

using namespace perceptual_ops;

namespace {

// (N, planes, H, length, step, elements from image to image)
ImageRows image_rows(const std::array<int64_t, 6>& numbers) {
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]};
}

}  // namespace

PYBIND11_MODULE(total_variation, m) {
  bind_traffic(m);
  m.def(
      "blocks", [](const std::array<int64_t, 6>& numbers) { return total_variation_blocks(image_rows(numbers)); },
      "rows"_a);

  m.def(
      "total_variation",
      [](const std::string& element, const std::array<int64_t, 6>& numbers, const std::string& kind, const py::array& x,
         uint64_t seed) {
        const ImageRows rows = image_rows(numbers);
        Arguments memory(element, seed);
        const void* image = memory.input("x", x);
        void* partial = memory.accumulators("partial", rows.batch * total_variation_blocks(rows));
        void* values = memory.accumulators("values", rows.batch);
        memory.check(
            launch_total_variation(memory.element(), rows, variation_distance(kind), image, partial, values, nullptr));
        return memory.result(values);
      },
      "element"_a, "rows"_a, "kind"_a, "x"_a, "seed"_a);

  m.def(
      "total_variation_gradient",
      [](const std::string& element, const std::array<int64_t, 6>& numbers, const std::string& kind, const py::array& x,
         const py::array& grad, const py::array& dx, uint64_t seed) {
        Arguments memory(element, seed);
        const void *image = memory.input("x", x), *upstream = memory.input("grad", grad);
        void* gradient = memory.changed("dx", dx);
        memory.check(launch_total_variation_gradient(memory.element(), image_rows(numbers), variation_distance(kind),
                                                     image, upstream, gradient, nullptr));
        return memory.result(gradient);
      },
      "element"_a, "rows"_a, "kind"_a, "x"_a, "grad"_a, "dx"_a, "seed"_a);
}
