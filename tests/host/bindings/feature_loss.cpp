// The launcher of the feature loss for numpy, with the allocations of csrc/feature_loss/feature_loss_cuda.cpp.
#include "feature_loss/feature_loss.h"

#include "arguments.h"

using namespace perceptual_ops;

namespace {

// (E, elements from sample to sample of x and of y, elements before x, y and dx in their memory)
using FeatureNumbers = std::array<int64_t, 6>;

}  // namespace

PYBIND11_MODULE(feature_loss, m) {
  bind_common(m);
  // Partial sums of one layer
  m.def(
      "blocks",
      [](const std::string& element, int64_t size, int64_t batch) {
        return feature_loss_blocks(Arguments(element, 0).element(),
                                   {{nullptr, nullptr, nullptr, size, size, size, 1, 1}}, batch);
      },
      "element"_a, "size"_a, "batch"_a);
  m.def(
      "feature_loss",
      [](const std::string& element, const std::string& wanted, int64_t batch,
         const std::vector<FeatureNumbers>& numbers, const std::vector<py::array>& x, const std::vector<py::array>& y,
         const std::vector<py::array>& dx, const std::vector<double>& scales, const std::vector<double>& weights,
         const std::string& distance, double parameter, const std::optional<py::array>& grad, uint64_t seed) {
        Arguments memory(element, seed);
        std::vector<FeatureLayer> layers;
        std::vector<void*> results;
        for (size_t l = 0; l < numbers.size(); ++l) {
          const auto [size, stride_x, stride_y, before_x, before_y, before_dx] = numbers[l];
          void* gradient = nullptr;
          if (wanted != "value") {
            results.push_back(memory.changed("dx", dx[l]));
            gradient = memory.at(results.back(), before_dx);
          }
          layers.push_back({memory.at(memory.input("x", x[l]), before_x), memory.at(memory.input("y", y[l]), before_y),
                            gradient, size, stride_x, stride_y, scales[l], weights[l]});
        }
        const int64_t count = layers.size();
        FeatureValues values{};
        if (wanted != "gradient") {
          values = {memory.accumulators("partial", feature_loss_blocks(memory.element(), layers, batch)),
                    memory.counters("arrivals", (count + 1) * batch), memory.accumulators("values", count * batch),
                    memory.accumulators("loss", batch)};
          results.push_back(values.values);
          results.push_back(values.loss);
        }
        memory.check(launch_feature_loss(memory.element(), wanted_named(wanted), layers, batch,
                                         distance_kind(distance).distance, parameter, values,
                                         grad ? memory.input("grad", *grad) : nullptr, nullptr));
        py::list outputs;  // dx of every layer, (L, N), (N)
        for (const void* result : results) outputs.append(memory.result(result));
        return py::tuple(outputs);
      },
      "element"_a, "wanted"_a, "batch"_a, "numbers"_a, "x"_a, "y"_a, "dx"_a, "scales"_a, "weights"_a, "distance"_a,
      "parameter"_a, "grad"_a, "seed"_a);
}
