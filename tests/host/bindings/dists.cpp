// The launchers of DISTS and of channel statistics for numpy, with the allocations of csrc/dists.
#include "dists/dists.h"

#include "arguments.h"
#include "dists/channel_statistics.h"

using namespace perceptual_ops;

namespace {

using Array = std::optional<py::array>;

// A map: memory, elements before its first, elements from sample to sample
using Samples = std::tuple<py::array, int64_t, int64_t>;

// One layer as the tests give it. Gradients are room for them, or none where they are not wanted.
struct Layer {
  std::string layout;
  int64_t channels, pixels;
  Samples x, y;
  py::array alpha, beta;
  std::optional<Samples> dx, dy;
};

Layer layer_of(const py::dict& given) {
  return {given["layout"].cast<std::string>(),
          given["channels"].cast<int64_t>(),
          given["pixels"].cast<int64_t>(),
          given["x"].cast<Samples>(),
          given["y"].cast<Samples>(),
          given["alpha"].cast<py::array>(),
          given["beta"].cast<py::array>(),
          given["dx"].cast<std::optional<Samples>>(),
          given["dy"].cast<std::optional<Samples>>()};
}

// The inputs of a layer; no statistics and no gradients yet.
DistsLayer inputs_of(Arguments& memory, const Layer& layer) {
  const auto map = [&](const char* name, const Samples& samples) {
    return memory.at(memory.input(name, std::get<0>(samples)), std::get<1>(samples));
  };
  return {layer.layout == "nhwc" ? Layout::kNHWC : Layout::kNCHW,
          layer.channels,
          layer.pixels,
          map("x", layer.x),
          map("y", layer.y),
          std::get<2>(layer.x),
          std::get<2>(layer.y),
          memory.input("alpha", layer.alpha),
          memory.input("beta", layer.beta),
          nullptr,
          nullptr,
          nullptr};
}

// -> (L, N), (N), then the statistics of every layer
py::tuple dists(const std::string& element, int64_t batch, const std::vector<py::dict>& given, uint64_t seed) {
  Arguments memory(element, seed);
  std::vector<DistsLayer> layers;
  for (const py::dict& one : given) {
    layers.push_back(inputs_of(memory, layer_of(one)));
    layers.back().statistics = memory.accumulators("statistics", batch * kDistsStatistics * layers.back().channels);
  }
  const MomentSizes sizes = dists_sizes(memory.element(), layers, batch);
  const DistsValues values{memory.accumulators("partial", sizes.partial),
                           memory.accumulators("of_groups", sizes.groups),
                           memory.counters("arrivals", batch + sizes.groups),
                           memory.accumulators("values", layers.size() * batch), memory.accumulators("loss", batch)};
  memory.check(launch_dists(memory.element(), layers, batch, values, nullptr));
  py::list outputs;
  outputs.append(memory.result(values.values));
  outputs.append(memory.result(values.loss));
  for (const DistsLayer& layer : layers) outputs.append(memory.result(layer.statistics));
  return py::tuple(outputs);
}

// -> dx of every layer, then dy, those that are wanted
py::tuple dists_backward(const std::string& element, int64_t batch, const std::vector<py::dict>& given,
                         const std::vector<py::array>& statistics, const py::array& grad, uint64_t seed) {
  Arguments memory(element, seed);
  std::vector<DistsLayer> layers;
  std::vector<void*> of_x, of_y;
  for (size_t l = 0; l < given.size(); ++l) {
    const Layer layer = layer_of(given[l]);
    layers.push_back(inputs_of(memory, layer));
    layers[l].statistics = const_cast<void*>(memory.input("statistics", statistics[l]));
    const auto room = [&](const char* name, const std::optional<Samples>& samples, std::vector<void*>& all) {
      if (!samples) return static_cast<void*>(nullptr);
      all.push_back(memory.changed(name, std::get<0>(*samples)));
      return static_cast<void*>(memory.at(all.back(), std::get<1>(*samples)));
    };
    layers[l].dx = room("dx", layer.dx, of_x);
    layers[l].dy = room("dy", layer.dy, of_y);
  }
  memory.check(launch_dists_backward(memory.element(), layers, batch, memory.input("grad", grad), nullptr));
  py::list outputs;
  for (const void* gradient : of_x) outputs.append(memory.result(gradient));
  for (const void* gradient : of_y) outputs.append(memory.result(gradient));
  return py::tuple(outputs);
}

// A layer of channel statistics, with the map alone.
StatisticsLayer statistics_layer(Arguments& memory, const py::dict& given) {
  StatisticsLayer layer{};
  layer.layout = given["layout"].cast<std::string>() == "nhwc" ? Layout::kNHWC : Layout::kNCHW;
  layer.channels = given["channels"].cast<int64_t>();
  layer.pixels = given["pixels"].cast<int64_t>();
  const auto x = given["x"].cast<Samples>();
  layer.x = memory.at(memory.input("x", std::get<0>(x)), std::get<1>(x));
  layer.stride_x = std::get<2>(x);
  return layer;
}

// -> the statistics of every layer
py::tuple channel_statistics(const std::string& element, int64_t batch, const std::vector<py::dict>& given,
                             uint64_t seed) {
  Arguments memory(element, seed);
  std::vector<StatisticsLayer> layers;
  for (const py::dict& one : given) {
    layers.push_back(statistics_layer(memory, one));
    layers.back().statistics = memory.accumulators("statistics", batch * kChannelStatistics * layers.back().channels);
  }
  const MomentSizes sizes = statistics_sizes(memory.element(), layers, batch);
  void* partial = memory.accumulators("partial", sizes.partial);
  uint32_t* arrivals = memory.counters("arrivals", sizes.groups);
  memory.check(launch_channel_statistics(memory.element(), layers, batch, partial, arrivals, nullptr));
  py::list outputs;
  for (const StatisticsLayer& layer : layers) outputs.append(memory.result(layer.statistics));
  return py::tuple(outputs);
}

// -> dx of every layer
py::tuple channel_statistics_backward(const std::string& element, int64_t batch, const std::vector<py::dict>& given,
                                      const std::optional<py::array>& grad, uint64_t seed) {
  Arguments memory(element, seed);
  std::vector<StatisticsLayer> layers;
  std::vector<void*> gradients;
  for (const py::dict& one : given) {
    StatisticsLayer layer = statistics_layer(memory, one);
    layer.statistics = const_cast<void*>(memory.input("statistics", one["statistics"].cast<py::array>()));
    layer.slopes = memory.input("slopes", one["slopes"].cast<py::array>());
    layer.of_pixels = one["of_pixels"].cast<int64_t>();
    if (const auto other = one["other"].cast<std::optional<Samples>>()) {
      layer.other = memory.at(memory.input("other", std::get<0>(*other)), std::get<1>(*other));
      layer.stride_other = std::get<2>(*other);
    }
    const auto dx = one["dx"].cast<Samples>();
    gradients.push_back(memory.changed("dx", std::get<0>(dx)));
    layer.dx = memory.at(gradients.back(), std::get<1>(dx));
    layers.push_back(layer);
  }
  const void* upstream = grad ? memory.input("grad", *grad) : nullptr;
  memory.check(launch_channel_statistics_backward(memory.element(), layers, batch, upstream, nullptr));
  py::list outputs;
  for (const void* gradient : gradients) outputs.append(memory.result(gradient));
  return py::tuple(outputs);
}

}  // namespace

PYBIND11_MODULE(dists, m) {
  bind_common(m);
  // Numbers of the scratch memory of layers (nhwc, C, P): (partial, of_groups)
  m.def(
      "sizes",
      [](const std::string& element, const std::vector<std::tuple<bool, int64_t, int64_t>>& shapes, int64_t batch) {
        std::vector<DistsLayer> layers;
        for (const auto& [nhwc, channels, pixels] : shapes) {
          const int64_t size = channels * pixels;
          layers.push_back({nhwc ? Layout::kNHWC : Layout::kNCHW, channels, pixels, nullptr, nullptr, size, size,
                            nullptr, nullptr, nullptr, nullptr, nullptr});
        }
        const MomentSizes sizes = dists_sizes(Arguments(element, 0).element(), layers, batch);
        return py::make_tuple(sizes.partial, sizes.groups);
      },
      "element"_a, "shapes"_a, "batch"_a);
  m.def(
      "statistics_sizes",
      [](const std::string& element, const std::vector<std::tuple<bool, int64_t, int64_t>>& shapes, int64_t batch) {
        std::vector<StatisticsLayer> layers;
        for (const auto& [nhwc, channels, pixels] : shapes) {
          StatisticsLayer layer{};
          layer.layout = nhwc ? Layout::kNHWC : Layout::kNCHW;
          layer.channels = channels;
          layer.pixels = pixels;
          layer.stride_x = channels * pixels;
          layers.push_back(layer);
        }
        const MomentSizes sizes = statistics_sizes(Arguments(element, 0).element(), layers, batch);
        return py::make_tuple(sizes.partial, sizes.groups);
      },
      "element"_a, "shapes"_a, "batch"_a);
  m.def("channel_statistics", &channel_statistics, "element"_a, "batch"_a, "layers"_a, "seed"_a);
  m.def("channel_statistics_backward", &channel_statistics_backward, "element"_a, "batch"_a, "layers"_a, "grad"_a,
        "seed"_a);
  m.def("dists", &dists, "element"_a, "batch"_a, "layers"_a, "seed"_a);
  m.def("dists_backward", &dists_backward, "element"_a, "batch"_a, "layers"_a, "statistics"_a, "grad"_a, "seed"_a);
}
