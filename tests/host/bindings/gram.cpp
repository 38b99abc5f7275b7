// The launchers of the Gram room for numpy, with the allocations of csrc/gram/gram_cuda.cpp.
#include "gram/gram.h"

#include "arguments.h"

using namespace perceptual_ops;

PYBIND11_MODULE(gram, m) {
  bind_traffic(m);
  m.def("splits", [](const std::array<int64_t, 6>& map) { return gram_splits(feature_map(map)); }, "map"_a);

  m.def(
      "gram",
      [](const std::string& element, const std::array<int64_t, 6>& numbers, const py::array& x, int64_t offset,
         double scale, uint64_t seed) {
        const FeatureMap map = feature_map(numbers);
        Arguments memory(element, seed);
        const int64_t area = map.channels * map.channels;
        const void* features = memory.input("x", x);
        void* partial = memory.accumulators("partial", gram_splits(map) * map.batch * area);
        void* gram = memory.accumulators("gram", map.batch * area);
        memory.check(launch_gram(memory.element(), map, memory.at(features, offset), partial, gram, scale, nullptr));
        return memory.result(gram);  // (N, C, C)
      },
      "element"_a, "map"_a, "x"_a, "offset"_a, "scale"_a, "seed"_a);

  m.def(
      "style_distance",
      [](const std::string& element, int64_t batch, int64_t channels, int64_t target_batch, const py::array& gram,
         const py::array& targets, const std::string& distance, double parameter, double value_scale,
         double slope_scale, double weight, bool first_layer, const py::array& loss, uint64_t seed) {
        Arguments memory(element, seed);
        const StyleDistance style{
            distance_kind(distance).distance, parameter, value_scale, slope_scale, weight, first_layer};
        const void *grams = memory.input("gram", gram), *target_grams = memory.input("targets", targets);
        void* slopes = memory.accumulators("slopes", batch * channels * channels);
        void *values = memory.accumulators("values", batch), *losses = memory.changed("loss", loss);
        memory.check(launch_style_distance(memory.element(), batch, channels, target_batch, grams, target_grams, style,
                                           slopes, values, losses, nullptr));
        return py::make_tuple(memory.result(slopes), memory.result(values), memory.result(losses));
      },
      "element"_a, "batch"_a, "channels"_a, "target_batch"_a, "gram"_a, "targets"_a, "distance"_a, "parameter"_a,
      "value_scale"_a, "slope_scale"_a, "weight"_a, "first_layer"_a, "loss"_a, "seed"_a);

  m.def(
      "symmetrise",
      [](const std::string& element, int64_t batch, int64_t channels, const py::array& slopes, double scale,
         uint64_t seed) {
        Arguments memory(element, seed);
        const void* given = memory.input("slopes", slopes);
        void* symmetric = memory.accumulators("symmetric", batch * channels * channels);
        memory.check(launch_symmetrise(memory.element(), batch, channels, given, scale, symmetric, nullptr));
        return memory.result(symmetric);
      },
      "element"_a, "batch"_a, "channels"_a, "slopes"_a, "scale"_a, "seed"_a);

  m.def(
      "gram_gradient",
      [](const std::string& element, const std::array<int64_t, 6>& numbers, const py::array& symmetric,
         const std::optional<py::array>& grad, const py::array& x, int64_t offset,
         const std::array<int64_t, 6>& dx_numbers, const py::array& dx, int64_t dx_offset, uint64_t seed) {
        Arguments memory(element, seed);
        const void *matrices = memory.input("symmetric", symmetric), *features = memory.input("x", x);
        const void* upstream = grad ? memory.input("grad", *grad) : nullptr;
        void* gradient = memory.changed("dx", dx);
        memory.check(launch_gram_gradient(memory.element(), feature_map(numbers), matrices, upstream,
                                          memory.at(features, offset), feature_map(dx_numbers),
                                          memory.at(gradient, dx_offset), nullptr));
        return memory.result(gradient);
      },
      "element"_a, "map"_a, "symmetric"_a, "grad"_a, "x"_a, "offset"_a, "dx_map"_a, "dx"_a, "dx_offset"_a, "seed"_a);
}
