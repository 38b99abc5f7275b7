// The launcher of LPIPS for numpy, with the allocations of csrc/lpips/lpips_cuda.cpp.
#include "lpips/lpips.h"

#include "arguments.h"

using namespace perceptual_ops;

namespace {

using Arrays = std::vector<py::array>;
// (C, P, elements from sample to sample of x and of y, elements before x, y, gradients and weights in their memory)
using LpipsNumbers = std::array<int64_t, 8>;

Layout layout_named(const std::string& name) { return name == "nhwc" ? Layout::kNHWC : Layout::kNCHW; }

}  // namespace

PYBIND11_MODULE(lpips, m) {
  bind_common(m);
  // Partial sums of one layer whose maps begin and follow each other at multiples of 16 bytes
  m.def(
      "blocks",
      [](const std::string& element, int64_t channels, int64_t pixels, int64_t batch, const std::string& layout) {
        const int64_t size = channels * pixels;
        LpipsLayer layer{};
        layer.channels = channels, layer.pixels = pixels, layer.layout = layout_named(layout);
        layer.stride_x = layer.stride_y = size;
        return lpips_blocks(Arguments(element, 0).element(), {layer}, batch);
      },
      "element"_a, "channels"_a, "pixels"_a, "batch"_a, "layout"_a);
  // -> dx, dy and map of every layer, (L, N), (N); what is not wanted is left out. Lists are empty where layers have
  // none of it
  m.def(
      "lpips",
      [](const std::string& element, int64_t batch, const std::string& layout, const std::vector<LpipsNumbers>& numbers,
         const Arrays& x, const Arrays& y, const Arrays& weights, const Arrays& dx, const Arrays& dy, bool maps,
         const Arrays& map_grads, double eps, bool eps_inside, bool wants_values, const std::optional<py::array>& grad,
         uint64_t seed) {
        Arguments memory(element, seed);
        std::vector<LpipsLayer> layers;
        std::vector<void*> results[3];
        for (size_t l = 0; l < numbers.size(); ++l) {
          const auto [channels, pixels, stride_x, stride_y, before_x, before_y, before_dx, before_weights] = numbers[l];
          const auto gradient = [&, before = before_dx](const char* name, const Arrays& arrays, int which) -> void* {
            if (arrays.empty()) return nullptr;
            results[which].push_back(memory.changed(name, arrays[l]));
            return memory.at(results[which].back(), before);
          };
          const auto* weight = static_cast<const char*>(memory.input("weights", weights[l]));
          LpipsLayer layer{};
          layer.x = memory.at(memory.input("x", x[l]), before_x);
          layer.y = memory.at(memory.input("y", y[l]), before_y);
          layer.weights = weight + before_weights * weights[l].itemsize();
          layer.dx = gradient("dx", dx, 0);
          layer.dy = gradient("dy", dy, 1);
          if (maps) {
            layer.map = memory.accumulators("map", batch * pixels);
            results[2].push_back(layer.map);
          }
          if (!map_grads.empty()) layer.map_grad = memory.input("map_grad", map_grads[l]);
          layer.channels = channels, layer.pixels = pixels;
          layer.stride_x = stride_x, layer.stride_y = stride_y;
          layer.layout = layout_named(layout);
          layers.push_back(layer);
        }
        const int64_t count = layers.size();
        LpipsValues values{};
        if (wants_values) {
          values = {memory.accumulators("partial", lpips_blocks(memory.element(), layers, batch)),
                    memory.counters("arrivals", (count + 1) * batch), memory.accumulators("values", count * batch),
                    memory.accumulators("loss", batch)};
        }
        memory.check(launch_lpips(memory.element(), layers, batch, eps, eps_inside, values,
                                  grad ? memory.input("grad", *grad) : nullptr, nullptr));
        py::list outputs;
        for (const auto& part : results) {
          for (const void* result : part) outputs.append(memory.result(result));
        }
        if (wants_values) {
          outputs.append(memory.result(values.values));
          outputs.append(memory.result(values.loss));
        }
        return py::tuple(outputs);
      },
      "element"_a, "batch"_a, "layout"_a, "numbers"_a, "x"_a, "y"_a, "weights"_a, "dx"_a, "dy"_a, "maps"_a,
      "map_grads"_a, "eps"_a, "eps_inside"_a, "wants_values"_a, "grad"_a, "seed"_a);
}
