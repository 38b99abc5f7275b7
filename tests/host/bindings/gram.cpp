// The launchers of the Gram room for numpy, with the allocations of csrc/gram/gram_cuda.cpp.
#include "gram/gram.h"

#include "arguments.h"
#include "gram/plan.h"

using namespace perceptual_ops;

namespace {

using Numbers = std::array<int64_t, 6>;  // of a FeatureMap

// (map, memory, offset of the first element)
using Map = std::tuple<Numbers, py::array, int64_t>;
// (N, C, C) target, its batch, and the four factors of StyleOutput
using Style = std::tuple<py::array, int64_t, double, double, double, double>;
// (map, S, dx map, dx memory, dx offset, what is added)
using Gradient = std::tuple<Map, py::array, Numbers, py::array, int64_t, std::optional<Map>>;

MapPointer input_map(Arguments& memory, const char* name, const Map& map) {
  const auto& [numbers, contents, offset] = map;
  return {memory.at(memory.input(name, contents), offset), feature_map(numbers)};
}

// The partial sums of some layers and what they need.
struct Sums {
  std::vector<MapPointer> layers;
  GramWorkspace workspace;
  void *partial, *slots, *arrivals;

  // `cut`: "planned"; "whole", no tile is cut, so that sums are as long as in maps a hundred times as large; "waves",
  // runs are taken in two waves, as in such maps, and there are too few for all blocks.
  Sums(Arguments& memory, const std::vector<Map>& maps, const std::string& cut = "planned") {
    std::vector<FeatureMap> shapes;
    for (const Map& map : maps) {
      layers.push_back(input_map(memory, "x", map));
      shapes.push_back(layers.back().map);
    }
    workspace = plan_gram(memory.element(), shapes);
    for (StageList& list : workspace.launches) {
      if (cut == "whole") list.run_stages = list.stages, list.waves = 1;
      if (cut == "waves") list.waves = 2;
    }
    partial = memory.accumulators("partial", workspace.partial);
    slots = memory.accumulators("slots", workspace.slots);
    arrivals = memory.words("arrivals", workspace.arrivals);
    memory.check(launch_gram_sums(memory.element(), layers, workspace, partial, arrivals, nullptr));
  }
  int64_t area(size_t layer) const {
    const FeatureMap& map = layers[layer].map;
    return map.batch * map.channels * map.channels;
  }
};

py::tuple results(const Arguments& memory, const std::vector<void*>& pointers) {
  py::tuple arrays(pointers.size());
  for (size_t i = 0; i < pointers.size(); ++i) arrays[i] = memory.result(pointers[i]);
  return arrays;
}

py::tuple gram(const std::string& element, const std::vector<Map>& maps, const std::vector<double>& scales,
               const std::string& cut, uint64_t seed) {
  Arguments memory(element, seed);
  const Sums sums(memory, maps, cut);
  std::vector<GramOutput> outputs;
  std::vector<void*> grams;  // (N, C, C) each
  for (size_t l = 0; l < maps.size(); ++l) {
    grams.push_back(memory.accumulators("gram", sums.area(l)));
    outputs.push_back({grams[l], scales[l]});
  }
  memory.check(launch_gram_finish(memory.element(), sums.layers, sums.workspace, outputs, sums.partial, nullptr));
  return results(memory, grams);
}

// -> (slopes of each layer, values, loss)
py::tuple style(const std::string& element, const std::vector<Map>& maps, const std::vector<Style>& styles,
                const std::string& distance, double parameter, uint64_t seed) {
  Arguments memory(element, seed);
  const Sums sums(memory, maps);
  std::vector<StyleOutput> outputs;
  std::vector<void*> outs;
  for (size_t l = 0; l < maps.size(); ++l) {
    const auto& [target, target_batch, scale, slope_scale, value_scale, weight] = styles[l];
    outs.push_back(memory.accumulators("slopes", sums.area(l)));
    outputs.push_back({outs[l], memory.input("target", target), target_batch, scale, slope_scale, value_scale, weight});
  }
  const int64_t batch = sums.layers[0].map.batch;
  void* values = memory.accumulators("values", batch * maps.size());
  void* loss = memory.accumulators("loss", batch);
  memory.check(launch_style_finish(memory.element(), sums.layers, sums.workspace, outputs,
                                   distance_kind(distance).distance, parameter, sums.partial, sums.slots, sums.arrivals,
                                   values, loss, nullptr));
  outs.insert(outs.end(), {values, loss});
  return results(memory, outs);
}

py::array symmetrise(const std::string& element, int64_t batch, int64_t channels, const py::array& slopes, double scale,
                     uint64_t seed) {
  Arguments memory(element, seed);
  const void* given = memory.input("slopes", slopes);
  void* symmetric = memory.accumulators("symmetric", batch * channels * channels);
  memory.check(launch_symmetrise(memory.element(), batch, channels, given, scale, symmetric, nullptr));
  return memory.result(symmetric);
}

// S as the gradient of this element type takes it: (matrix, scale or null) of each layer.
std::vector<std::pair<const void*, const void*>> prepared(Arguments& memory, const std::vector<Gradient>& layers) {
  std::vector<std::pair<const void*, const void*>> matrices;
  std::vector<NarrowSlopes> narrow;
  for (const Gradient& layer : layers) {
    const FeatureMap map = feature_map(std::get<0>(std::get<0>(layer)));
    const void* slopes = memory.input("slopes", std::get<1>(layer));
    if (!needs_narrow_slopes(memory.element())) {
      matrices.emplace_back(slopes, nullptr);
      continue;
    }
    void* matrix = memory.elements("narrow", map.batch * map.channels * narrow_pitch(map.channels));
    void* scale = memory.accumulators("scale", map.batch * map.channels);
    narrow.push_back({slopes, map.batch, map.channels, matrix, scale});
    matrices.emplace_back(matrix, scale);
  }
  if (!narrow.empty()) memory.check(launch_narrow(memory.element(), narrow, nullptr));
  return matrices;
}

// -> dx of each layer
py::tuple gram_gradient(const std::string& element, const std::vector<Gradient>& layers,
                        const std::optional<py::array>& grad, uint64_t seed) {
  Arguments memory(element, seed);
  const auto matrices = prepared(memory, layers);
  std::vector<GradientOutput> outputs;
  std::vector<void*> outs;
  for (size_t l = 0; l < layers.size(); ++l) {
    const auto& [x, slopes, dx_numbers, dx, dx_offset, other] = layers[l];
    GradientOutput output{};
    output.x = input_map(memory, "x", x);
    outs.push_back(memory.changed("dx", dx));
    output.dx = memory.at(outs.back(), dx_offset);
    output.dx_map = feature_map(dx_numbers);
    if (other) output.other = input_map(memory, "other", *other);
    std::tie(output.slopes, output.scale) = matrices[l];
    outputs.push_back(output);
  }
  memory.check(launch_gram_gradient(memory.element(), outputs, grad ? memory.input("grad", *grad) : nullptr, nullptr));
  return results(memory, outs);
}

StageList stage_list(const std::vector<Numbers>& maps, int64_t depth) {
  std::vector<FeatureMap> layers;
  for (const Numbers& numbers : maps) layers.push_back(feature_map(numbers));
  StageList list{};
  if (!plan_stages(layers.data(), static_cast<int>(layers.size()), depth, list)) throw std::overflow_error("stages");
  return list;
}

}  // namespace

PYBIND11_MODULE(gram, m) {
  bind_common(m);
  // (stages, stages of a run, waves), and of each block in turn its pieces: (layer, n, row and column of the tile,
  // first stage of the tile, stages, partial sums)
  m.def(
      "runs",
      [](const std::vector<Numbers>& maps, int64_t depth) {
        const StageList list = stage_list(maps, depth);
        std::vector<std::vector<std::array<int64_t, 7>>> runs(list.blocks());
        for (uint32_t block = 0; block < list.blocks(); ++block) {
          const uint32_t begin = list.run_of(block) * list.run_stages;
          for (uint32_t stage = begin; stage < std::min(begin + list.run_stages, list.stages);) {
            const Piece piece = list.piece(stage);
            runs[block].push_back(
                {piece.layer, piece.n, piece.tile.row, piece.tile.column, piece.first, piece.count, piece.partial});
            stage += piece.count;
          }
        }
        return std::make_tuple(std::array<int64_t, 3>{list.stages, list.run_stages, list.waves}, runs);
      },
      "maps"_a, "depth"_a);
  // (first, count) of a tile's partial sums, and how many the layer has
  m.def(
      "partials",
      [](const std::vector<Numbers>& maps, int64_t depth, int layer, uint32_t n, int row, int column) {
        const StageList list = stage_list(maps, depth);
        const Partials partials = list.partials(layer, n, {row, column});
        return std::array<int64_t, 3>{partials.first, partials.count,
                                      list.partials(layer, feature_map(maps[layer]).batch)};
      },
      "maps"_a, "depth"_a, "layer"_a, "n"_a, "row"_a, "column"_a);
  // Bytes of the partial sums, slots and arrivals
  m.def(
      "workspace",
      [](const std::string& element, const std::vector<Numbers>& maps) {
        const Arguments memory(element, 0);
        std::vector<FeatureMap> layers;
        for (const Numbers& numbers : maps) layers.push_back(feature_map(numbers));
        const GramWorkspace workspace = plan_gram(memory.element(), layers);
        const int64_t accumulator = memory.element() == Element::kFloat64 ? 8 : 4;
        return std::array<int64_t, 3>{workspace.partial * accumulator, workspace.slots * accumulator,
                                      workspace.arrivals * 4};
      },
      "element"_a, "maps"_a);
  // (layer, item of the layer) in the order of a launch
  m.def(
      "interleaved",
      [](const std::vector<uint32_t>& counts) {
        Interleaving items{static_cast<int>(counts.size()), {}, {}};
        std::copy(counts.begin(), counts.end(), items.counts);
        std::vector<std::pair<int, uint32_t>> order;
        const uint32_t total = items.set_starts();
        for (uint32_t i = 0; i < total; ++i) order.emplace_back(items.item(i).layer, items.item(i).index);
        return order;
      },
      "counts"_a);
  m.def("gram", &gram, "element"_a, "maps"_a, "scales"_a, "cut"_a, "seed"_a);
  m.def("style", &style, "element"_a, "maps"_a, "styles"_a, "distance"_a, "parameter"_a, "seed"_a);
  m.def("symmetrise", &symmetrise, "element"_a, "batch"_a, "channels"_a, "slopes"_a, "scale"_a, "seed"_a);
  m.def("gram_gradient", &gram_gradient, "element"_a, "layers"_a, "grad"_a, "seed"_a);
}
