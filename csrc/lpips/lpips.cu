#include <algorithm>

#include "../common/launch.h"
#include "lpips.cuh"
#include "lpips.h"

namespace perceptual_ops {
namespace {

// How the kernel takes a layer.
struct Plan {
  Walk walk;
  int lanes;    // of a pixel, where lanes walk
  int64_t run;  // pixels of a block

  int64_t runs(const LpipsLayer& layer) const { return ceil_div(layer.pixels, run); }
};

// The lanes that hold a pixel of so many packs by `each`, or none.
int lanes_of(int64_t packs, int each) {
  const int64_t lanes = packs / each;
  const bool power_of_two = lanes > 0 && (lanes & (lanes - 1)) == 0;
  return packs % each == 0 && power_of_two && lanes <= kWarp ? static_cast<int>(lanes) : 0;
}

// Whether every sample of a layer can be walked by packs of 16 bytes along what lies side by side.
template <class T>
bool is_packed(const LpipsLayer& layer, int64_t batch) {
  const bool nhwc = layer.layout == Layout::kNHWC;
  return (nhwc ? layer.channels : layer.pixels) % kPackWidth<T> == 0 &&
         begins_packed<T>(layer.x, batch, layer.stride_x) && begins_packed<T>(layer.y, batch, layer.stride_y) &&
         begins_packed<T>(layer.dx) && begins_packed<T>(layer.dy) && (!nhwc || begins_packed<T>(layer.weights));
}

template <class T>
Plan plan(const LpipsLayer& layer, int64_t batch) {
  const bool packed = is_packed<T>(layer, batch);
  if (packed && layer.layout == Layout::kNCHW) {
    return {Walk::kPixelPacks, 0, kLpipsSweeps * TileShape<kPackWidth<T>>::kPixels};
  }
  const auto by_lanes = [&](Walk walk, int lanes, int pixels) {
    return Plan{walk, lanes, kLpipsSweeps * pixels * (kLpipsThreads / lanes)};
  };
  const int64_t packs = packed ? layer.channels / kPackWidth<T> : 0;
  if (const int lanes = lanes_of(packs, 2)) return by_lanes(Walk::kTwoPacks, lanes, kLanePixels<2>);
  if (const int lanes = lanes_of(packs, 3)) return by_lanes(Walk::kThreePacks, lanes, kLanePixels<3>);
  if (const int lanes = kFourLanePacks<T> ? lanes_of(packs, 4) : 0) {
    return by_lanes(Walk::kFourPacks, lanes, kLanePixels<4>);
  }
  return {Walk::kSingles, 0, kLpipsSweeps * TileShape<1>::kPixels};
}

template <class T>
int64_t all_blocks(const LpipsLayer* layers, int64_t count, int64_t batch) {
  int64_t blocks = 0;
  for (int64_t l = 0; l < count; ++l) blocks += batch * plan<T>(layers[l], batch).runs(layers[l]);
  return blocks;
}

template <class T>
PixelLayer<T> pixel_layer(LpipsLayer layer, int64_t batch, uint32_t first_block) {
  using Acc = DeviceAccumulator<T>;
  if (layer.dx == nullptr && layer.dy != nullptr) {
    std::swap(layer.x, layer.y);
    std::swap(layer.stride_x, layer.stride_y);
    std::swap(layer.dx, layer.dy);
  }
  const Plan chosen = plan<T>(layer, batch);
  return {static_cast<const T*>(layer.x),
          static_cast<const T*>(layer.y),
          static_cast<const Acc*>(layer.weights),
          static_cast<T*>(layer.dx),
          static_cast<T*>(layer.dy),
          static_cast<Acc*>(layer.map),
          static_cast<const Acc*>(layer.map_grad),
          layer.pixels,
          layer.stride_x,
          layer.stride_y,
          static_cast<uint32_t>(layer.channels),
          first_block,
          static_cast<uint32_t>(chosen.runs(layer)),
          static_cast<uint16_t>(chosen.run),
          static_cast<uint8_t>(chosen.lanes),
          chosen.walk,
          layer.layout == Layout::kNHWC};
}

// The layers of one launch, the first of which is layer `first_layer`.
template <class T>
PixelTable<T> pixel_table(const std::vector<LpipsLayer>& layers, int64_t first_layer, int64_t batch, double eps,
                          bool eps_inside, const LpipsValues& values, const void* grad) {
  using Acc = DeviceAccumulator<T>;
  PixelTable<T> table{};
  table.count = std::min<int64_t>(kPixelLayers, layers.size() - first_layer);
  table.batch = batch;
  table.first_layer = first_layer;
  table.partial = static_cast<Acc*>(values.partial);
  table.arrivals = values.arrivals;
  table.values = static_cast<Acc*>(values.values);
  table.loss = static_cast<Acc*>(values.loss);
  table.grad = static_cast<const Acc*>(grad);
  table.norm = {static_cast<Acc>(eps_inside ? eps : 0.0), static_cast<Acc>(eps_inside ? 0.0 : eps)};
  uint32_t block = 0;
  for (uint32_t l = 0; l < table.count; ++l) {
    table.layers[l] = pixel_layer<T>(layers[first_layer + l], batch, block);
    block += batch * table.layers[l].runs;
  }
  return table;
}

// Calls f(std::integral_constant<int, kGradients>).
template <class F>
void dispatch_gradients(const LpipsLayer& layer, F&& f) {
  if (layer.dx != nullptr && layer.dy != nullptr) return f(std::integral_constant<int, 2>{});
  if (layer.dx != nullptr || layer.dy != nullptr) return f(std::integral_constant<int, 1>{});
  f(std::integral_constant<int, 0>{});
}

}  // namespace

int64_t lpips_blocks(Element element, const std::vector<LpipsLayer>& layers, int64_t batch) {
  int64_t blocks = 0;
  dispatch_element(element,
                   [&](auto type) { blocks = all_blocks<decltype(type)>(layers.data(), layers.size(), batch); });
  return blocks;
}

cudaError_t launch_lpips(Element element, const std::vector<LpipsLayer>& layers, int64_t batch, double eps,
                         bool eps_inside, const LpipsValues& values, const void* grad, cudaStream_t stream) {
  if (!fits_grid(lpips_blocks(element, layers, batch))) return cudaErrorInvalidConfiguration;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    for (int64_t first = 0; first < static_cast<int64_t>(layers.size()); first += kPixelLayers) {
      const PixelTable<T> table = pixel_table<T>(layers, first, batch, eps, eps_inside, values, grad);
      const int64_t blocks = all_blocks<T>(&layers[first], table.count, batch);
      dispatch_gradients(layers[first], [&](auto gradients) {
        launch_kernel(lpips_kernel<T, decltype(gradients)::value>, blocks, kLpipsThreads, 0, stream, table);
      });
    }
  });
  return cudaGetLastError();
}

}  // namespace perceptual_ops
