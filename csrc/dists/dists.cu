#include <algorithm>

#include "../common/launch.h"
#include "dists.h"
#include "gradient.cuh"

namespace perceptual_ops {
namespace {

// Packs of a thread: many hide what a block spends on merging, few give small maps blocks enough for every SM.
constexpr int64_t kMostPacks = 48, kFewestPacks = 12;
static_assert(kFewestPacks % kDistsLoads == 0, "whole rounds of loads");
constexpr int64_t kEnoughBlocks = 512;

// How a layer is cut into blocks; the table's entry in 64 bits.
struct Cut {
  bool nhwc, packed;
  int64_t fold;     // pixels that are taken as one
  int64_t width;    // elements of a pack
  int64_t units;    // packs along the pixels of a channel
  int64_t columns;  // of threads
  int64_t span;     // channels of a group
  int64_t groups;   // of a sample
  int64_t chunk;    // packs along the pixels of a block
  int64_t chunks;

  int64_t blocks(int64_t batch) const { return batch * groups * chunks; }
  int64_t partial(int64_t batch) const { return blocks(batch) * kDistsStatistics * span; }
};

template <class T>
bool begins_packed(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % sizeof(Pack<T>) == 0 && stride % kPackWidth<T> == 0;
}

// Whether all samples can be walked by packs, but for their channels and pixels.
template <class T>
bool is_packed(const DistsLayer& layer, int64_t batch) {
  const auto all = [&](const void* data, int64_t stride) { return begins_packed<T>(data, batch > 1 ? stride : 0); };
  return all(layer.x, layer.stride_x) && all(layer.y, layer.stride_y) && all(layer.dx, 0) && all(layer.dy, 0);
}

// The fewest pixels whose channels fill packs; 1 where a block cannot hold so many channels, or the pixels are no
// multiple.
template <class T>
int64_t fold_of(const DistsLayer& layer) {
  int64_t fold = 1;
  while (layer.channels * fold % kPackWidth<T> != 0) fold *= 2;
  return layer.channels * fold <= kDistsSpan<T> && layer.pixels % fold == 0 ? fold : 1;
}

template <class T>
Cut cut_of(const DistsLayer& layer, int64_t batch, int64_t packs) {
  Cut cut{};
  cut.nhwc = layer.layout == Layout::kNHWC;
  const bool packed = is_packed<T>(layer, batch);
  cut.fold = cut.nhwc && packed ? fold_of<T>(layer) : 1;
  cut.packed = packed && (cut.nhwc ? layer.channels * cut.fold : layer.pixels) % kPackWidth<T> == 0;
  cut.width = cut.packed ? kPackWidth<T> : 1;
  if (cut.nhwc) {
    const int64_t across = ceil_div(layer.channels * cut.fold, cut.width);
    const int64_t most = cut.packed ? kPackColumns : kSingleColumns;
    for (cut.columns = 1; cut.columns < std::min(across, most);) cut.columns *= 2;
    cut.units = layer.pixels / cut.fold;
    cut.span = cut.fold > 1 ? layer.channels : cut.columns * cut.width;
  } else {
    cut.columns = cut.span = kDistsWarps;
    cut.units = layer.pixels / cut.width;
  }
  cut.groups = ceil_div(layer.channels, cut.span);
  cut.chunk = kDistsThreads / cut.columns * packs;
  cut.chunks = ceil_div(cut.units, cut.chunk);
  return cut;
}

template <class T>
std::vector<Cut> cuts_of(const std::vector<DistsLayer>& layers, int64_t batch) {
  std::vector<Cut> cuts(layers.size());
  for (int64_t packs = kMostPacks;; packs /= 2) {
    int64_t blocks = 0;
    for (size_t l = 0; l < layers.size(); ++l) {
      cuts[l] = cut_of<T>(layers[l], batch, packs);
      blocks += cuts[l].blocks(batch);
    }
    if (blocks >= kEnoughBlocks || packs == kFewestPacks) return cuts;
  }
}

template <class T>
DistsEntry<T> entry_of(const DistsLayer& layer, const Cut& cut) {
  using Acc = DeviceAccumulator<T>;
  DistsEntry<T> entry{};
  entry.x = static_cast<const T*>(layer.x);
  entry.y = static_cast<const T*>(layer.y);
  entry.dx = static_cast<T*>(layer.dx);
  entry.dy = static_cast<T*>(layer.dy);
  entry.alpha = static_cast<const Acc*>(layer.alpha);
  entry.beta = static_cast<const Acc*>(layer.beta);
  entry.statistics = static_cast<Acc*>(layer.statistics);
  entry.stride_x = layer.stride_x;
  entry.stride_y = layer.stride_y;
  entry.pixels = layer.pixels;
  entry.units = cut.units;
  entry.line = cut.nhwc ? layer.channels * cut.fold : cut.width;
  entry.across = cut.nhwc ? 1 : layer.pixels;
  entry.channels = layer.channels;
  entry.memory_channels = layer.channels * cut.fold;
  entry.columns = cut.columns;
  entry.span = cut.span;
  entry.groups = cut.groups;
  entry.chunks = cut.chunks;
  entry.chunk = cut.chunk;
  entry.nhwc = cut.nhwc;
  entry.packed = cut.packed;
  return entry;
}

// Whether blocks, channels and packs can be counted in 32 bits.
bool fits(const std::vector<DistsLayer>& layers, const std::vector<Cut>& cuts, int64_t batch) {
  int64_t blocks = 0;
  for (size_t l = 0; l < layers.size(); ++l) {
    if (!fits_grid(layers[l].channels + cuts[l].columns * cuts[l].width)) return false;
    if (!fits_grid(cuts[l].units + cuts[l].chunk)) return false;
    blocks += cuts[l].blocks(batch);
  }
  return fits_grid(blocks);
}

// Calls launch(table, blocks) for the layers of each launch.
template <class T, class F>
cudaError_t for_launches(const std::vector<DistsLayer>& layers, int64_t batch, DistsTable<T> table, F&& launch) {
  const std::vector<Cut> cuts = cuts_of<T>(layers, batch);
  if (!fits(layers, cuts, batch)) return cudaErrorInvalidConfiguration;
  table.batch = batch;
  int64_t partial = 0;
  for (size_t first = 0; first < layers.size(); first += kDistsLayers) {
    table.first_layer = first;
    table.count = std::min<size_t>(kDistsLayers, layers.size() - first);
    uint32_t blocks = 0;
    for (uint32_t l = 0; l < table.count; ++l) {
      const Cut& cut = cuts[first + l];
      DistsEntry<T>& entry = table.layers[l] = entry_of<T>(layers[first + l], cut);
      entry.first_block = blocks;
      entry.first_group = table.groups * batch;
      entry.partial = partial;
      blocks += cut.blocks(batch);
      table.groups += cut.groups;
      partial += cut.partial(batch);
    }
    launch(table, blocks);
  }
  return cudaGetLastError();
}

}  // namespace

DistsSizes dists_sizes(Element element, const std::vector<DistsLayer>& layers, int64_t batch) {
  DistsSizes sizes{};
  dispatch_element(element, [&](auto type) {
    for (const Cut& cut : cuts_of<decltype(type)>(layers, batch)) {
      sizes.partial += cut.partial(batch);
      sizes.groups += batch * cut.groups;
    }
  });
  return sizes;
}

cudaError_t launch_dists(Element element, const std::vector<DistsLayer>& layers, int64_t batch,
                         const DistsValues& values, cudaStream_t stream) {
  cudaError_t status = cudaSuccess;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    using Acc = DeviceAccumulator<T>;
    DistsTable<T> table{};
    table.partial = static_cast<Acc*>(values.partial);
    table.of_groups = static_cast<Acc*>(values.of_groups);
    table.arrived = values.arrived;
    table.values = static_cast<Acc*>(values.values);
    table.loss = static_cast<Acc*>(values.loss);
    status = for_launches(layers, batch, table, [&](const DistsTable<T>& filled, int64_t blocks) {
      launch_kernel(dists_kernel<T>, blocks, kDistsThreads, 0, stream, filled);
    });
  });
  return status;
}

cudaError_t launch_dists_backward(Element element, const std::vector<DistsLayer>& layers, int64_t batch,
                                  const void* grad, cudaStream_t stream) {
  const bool by_x = layers[0].dx != nullptr, by_y = layers[0].dy != nullptr;
  cudaError_t status = cudaSuccess;
  dispatch_element(element, [&](auto type) {
    using T = decltype(type);
    DistsTable<T> table{};
    table.grad = static_cast<const DeviceAccumulator<T>*>(grad);
    const auto kernel = by_x && by_y ? dists_backward_kernel<T, Inputs::kBoth>
                        : by_x       ? dists_backward_kernel<T, Inputs::kX>
                                     : dists_backward_kernel<T, Inputs::kY>;
    status = for_launches(layers, batch, table, [&](const DistsTable<T>& filled, int64_t blocks) {
      launch_kernel(kernel, blocks, kDistsThreads, 0, stream, filled);
    });
  });
  return status;
}

}  // namespace perceptual_ops
