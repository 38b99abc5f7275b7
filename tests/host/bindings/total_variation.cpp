// The launcher of the total variation for numpy, with the allocations of
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
  bind_common(m);
  // Partial sums of an image
  m.def(
      "slots", [](const std::array<int64_t, 6>& numbers) { return total_variation_slots(image_rows(numbers)); },
      "rows"_a);
  m.def(
      "total_variation",
      [](const std::string& element, const std::string& wanted, const std::array<int64_t, 6>& numbers,
         const std::string& kind, const py::array& x, int64_t before_x, const std::optional<py::array>& grad,
         const py::array& dx, int64_t before_dx, uint64_t seed) {
        const ImageRows rows = image_rows(numbers);
        Arguments memory(element, seed);
        VariationValues values{};
        void* gradient = nullptr;
        py::list outputs;  // dx, (N)
        if (wanted != "value") gradient = memory.changed("dx", dx);
        if (wanted != "gradient") {
          values = {memory.accumulators("partial", rows.batch * total_variation_slots(rows)),
                    memory.counters("arrivals", rows.batch), memory.accumulators("values", rows.batch)};
        }
        memory.check(launch_total_variation(memory.element(), wanted_named(wanted), rows, variation_distance(kind),
                                            memory.at(memory.input("x", x), before_x), values,
                                            grad ? memory.input("grad", *grad) : nullptr,
                                            gradient ? memory.at(gradient, before_dx) : nullptr, nullptr));
        if (gradient) outputs.append(memory.result(gradient));
        if (values.values) outputs.append(memory.result(values.values));
        return py::tuple(outputs);
      },
      "element"_a, "wanted"_a, "rows"_a, "kind"_a, "x"_a, "before_x"_a, "grad"_a, "dx"_a, "before_dx"_a, "seed"_a);
}
