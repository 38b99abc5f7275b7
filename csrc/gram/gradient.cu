#include <algorithm>

#include "../common/launch.h"
#include "gradient.cuh"
#include "gram.h"

namespace perceptual_ops {
namespace {

struct Tiles {
  uint32_t channels, pixels;
};

// Tiles of one sample. 32 bits: the launcher checks that they fit a grid.
Tiles gradient_tiles(const FeatureMap& map) {
  const bool narrow = map.channels <= kNarrow;
  return {static_cast<uint32_t>(narrow ? 1 : ceil_div(map.channels, 2 * kPanelRows)),
          static_cast<uint32_t>(ceil_div(map.pixels, (narrow ? 4 : 2) * kPanelRows))};
}

}  // namespace

cudaError_t launch_gram_gradient(Element element, const std::vector<GradientOutput>& layers, const void* grad,
                                 cudaStream_t stream) {
  const int64_t bytes = element_bytes(element);
  GradientTable table{{0, {}, {}}, {}};
  int64_t items = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const GradientOutput& layer = layers[i];
    const FeatureMap& map = layer.x.map;
    const Tiles tiles = gradient_tiles(map);
    const int64_t of_layer = map.batch * tiles.channels * int64_t(tiles.pixels);
    const int64_t pitch = layer.scale == nullptr ? map.channels : narrow_pitch(map.channels);
    items += of_layer;
    // Rows, columns and depths are counted in 32 bits, also those of the tiles that reach over the end.
    const int64_t beyond = 4 * kPanelRows;
    if (!fits_grid(items) || !fits_grid(map.pixels + beyond) || !fits_grid(map.channels + beyond)) {
      return cudaErrorInvalidConfiguration;
    }
    GradientLayer& entry = table.layers[table.items.layers];
    entry = {layer.x.data,
             map,
             layer.dx,
             layer.dx_map,
             layer.other.data,
             layer.other.map,
             map.layout() == Layout::kNHWC,
             has_aligned_lines(layer.x.data, map, bytes),
             has_aligned_lines(layer.dx, layer.dx_map, bytes),
             has_aligned_lines(layer.other.data, layer.other.map, bytes),
             pitch * bytes % 16 == 0 && reinterpret_cast<uintptr_t>(layer.slopes) % 16 == 0,
             layer.slopes,
             pitch,
             layer.scale,
             tiles.channels,
             tiles.pixels};
    table.items.counts[table.items.layers++] = static_cast<uint32_t>(of_layer);
    if (table.items.layers < kMaxLayers && i + 1 < layers.size()) continue;
    table.items.set_starts();
    dispatch_element(element, [&](auto type) {
      launch_kernel(gram_gradient_kernel<decltype(type)>, items, kThreads, kSharedBytes, stream, table, grad);
    });
    if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) return status;
    table.items.layers = 0;
    items = 0;
  }
  return cudaSuccess;
}

}  // namespace perceptual_ops
