// A thread takes some pixels of one sample, widens them into a block that fits its L2 cache, multiplies and rounds: one
// parallel loop for a gradient, two for a Gram.
#include "fp32_blocks_cpu.h"

#include "fp32_tile_cpu.h"
#include "gram_parts_cpu.h"

namespace perceptual_ops {
namespace {

constexpr int64_t kPanelPixels = 256;        // of a Gram: a panel takes 16 KB, half an L1 cache
constexpr int64_t kBlockElements = 1 << 16;  // of a gradient's block: 256 KB of fp32
constexpr int64_t kMinTasks = 16;            // of a gradient
constexpr int64_t kTransposed = 4;           // lines and elements at a time

using Four = Vector<kTransposed * sizeof(float)>::Lanes;

// The first two numbers of two vectors in turn, and the last two.
PO_INLINE Four first_in_turn(const Four& a, const Four& b) { return Four{a[0], b[0], a[1], b[1]}; }
PO_INLINE Four last_in_turn(const Four& a, const Four& b) { return Four{a[2], b[2], a[3], b[3]}; }

// Four lines of four elements as four columns of a panel.
template <class T>
PO_INLINE void transpose_four(const T* from, int64_t pitch, float* to) {
  Four lines[kTransposed];
  for (int64_t i = 0; i < kTransposed; ++i) {
    float line[kTransposed];
    for (int64_t j = 0; j < kTransposed; ++j) line[j] = static_cast<float>(from[i * pitch + j]);
    std::memcpy(&lines[i], line, sizeof(Four));
  }
  const Four a = first_in_turn(lines[0], lines[2]), b = first_in_turn(lines[1], lines[3]);
  const Four c = last_in_turn(lines[0], lines[2]), d = last_in_turn(lines[1], lines[3]);
  const Four columns[kTransposed] = {first_in_turn(a, b), last_in_turn(a, b), first_in_turn(c, d), last_in_turn(c, d)};
  for (int64_t i = 0; i < kTransposed; ++i) std::memcpy(to + i * kTileColumns, &columns[i], sizeof(Four));
}

// Lines of `length` elements, `pitch` apart, as panels of kTileColumns columns that begin `panel` elements apart.
template <class T>
PO_INLINE void packed_lines(const T* from, int64_t pitch, int64_t lines, int64_t length, float* panels, int64_t panel) {
  for (int64_t line = 0; line < lines; ++line, from += pitch) {
    float* to = panels + line * kTileColumns;
    int64_t j = 0;
    for (; j + kTileColumns <= length; j += kTileColumns, to += panel) {
#pragma omp simd
      for (int64_t c = 0; c < kTileColumns; ++c) to[c] = static_cast<float>(from[j + c]);
    }
    for (int64_t c = 0; j + c < length; ++c) to[c] = static_cast<float>(from[j + c]);
  }
}

// The same of the transpose: each line is a column of a panel. Lines are too far apart for the hardware prefetcher.
template <class T>
PO_INLINE void packed_columns(const T* from, int64_t pitch, int64_t lines, int64_t length, float* panels,
                              int64_t panel) {
  constexpr int64_t kCacheLine = 64 / sizeof(T);
  for (int64_t line = 0; line < lines; line += kTransposed) {
    float* to = panels + line / kTileColumns * panel + line % kTileColumns;
    const T* begin = from + line * pitch;
    int64_t i = 0;
    if (line + kTransposed <= lines) {
      for (; i + kTransposed <= length; i += kTransposed) {
        if (i % kCacheLine == 0 && line + 2 * kTransposed <= lines) {
          for (int64_t c = 0; c < kTransposed; ++c) __builtin_prefetch(begin + (kTransposed + c) * pitch + i);
        }
        transpose_four(begin + i, pitch, to + i * kTileColumns);
      }
    }
    for (int64_t c = 0; c < std::min(kTransposed, lines - line); ++c) {
      for (int64_t j = i; j < length; ++j) to[j * kTileColumns + c] = static_cast<float>(begin[c * pitch + j]);
    }
  }
}

// The same as they are, side by side.
template <class T>
PO_INLINE void widened_lines(const T* from, int64_t pitch, int64_t lines, int64_t length, float* to) {
  for (int64_t line = 0; line < lines; ++line, from += pitch, to += length) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) to[i] = static_cast<float>(from[i]);
  }
}

template <class T>
PO_INLINE void added_rows(const T* from, int64_t from_pitch, int64_t height, int64_t width, Tile<float>& tile) {
  for (int64_t r = 0; r < height; ++r, from += from_pitch) {
    if (width == kTileColumns) {
#pragma omp simd
      for (int64_t c = 0; c < kTileColumns; ++c) tile[r][c] += static_cast<float>(from[c]);
    } else {
      for (int64_t c = 0; c < width; ++c) tile[r][c] += static_cast<float>(from[c]);
    }
  }
}

template <class T, class Sum>
PO_INLINE void rounded_tile(const Tile<Sum>& tile, int64_t height, int64_t width, T* out, int64_t pitch) {
  for (int64_t r = 0; r < height; ++r, out += pitch) {
    if (width == kTileColumns) {
#pragma omp simd
      for (int64_t c = 0; c < kTileColumns; ++c) store_rounded(out[c], static_cast<float>(tile[r][c]));
    } else {
      for (int64_t c = 0; c < width; ++c) store_rounded(out[c], static_cast<float>(tile[r][c]));
    }
  }
}

template <class Sum>
PO_INLINE void added_tile(const Tile<Sum>& tile, int64_t height, int64_t width, float* out, int64_t pitch) {
  for (int64_t r = 0; r < height; ++r, out += pitch) {
    for (int64_t c = 0; c < width; ++c) out[c] = static_cast<float>(out[c] + tile[r][c]);
  }
}

// Clones cannot be templates.
#define PO_PANELS_OF(T)                                                                                       \
  PO_CPU_CLONES void pack_lines(const T* from, int64_t pitch, int64_t lines, int64_t length, float* panels,   \
                                int64_t panel) {                                                              \
    packed_lines(from, pitch, lines, length, panels, panel);                                                  \
  }                                                                                                           \
  PO_CPU_CLONES void pack_columns(const T* from, int64_t pitch, int64_t lines, int64_t length, float* panels, \
                                  int64_t panel) {                                                            \
    packed_columns(from, pitch, lines, length, panels, panel);                                                \
  }                                                                                                           \
  PO_CPU_CLONES void store(const Tile<float>& tile, int64_t height, int64_t width, T* out, int64_t pitch) {   \
    rounded_tile(tile, height, width, out, pitch);                                                            \
  }
#define PO_BLOCKS_OF(T)                                                                                         \
  PO_PANELS_OF(T)                                                                                               \
  PO_CPU_CLONES void widen_lines(const T* from, int64_t pitch, int64_t lines, int64_t length, float* to) {      \
    widened_lines(from, pitch, lines, length, to);                                                              \
  }                                                                                                             \
  PO_CPU_CLONES void add_rows(const T* from, int64_t pitch, int64_t height, int64_t width, Tile<float>& tile) { \
    added_rows(from, pitch, height, width, tile);                                                               \
  }
PO_PANELS_OF(float)
PO_BLOCKS_OF(Half)
PO_BLOCKS_OF(BFloat16)
PO_CPU_CLONES void store(const Tile<double>& tile, int64_t height, int64_t width, float* out, int64_t pitch) {
  rounded_tile(tile, height, width, out, pitch);
}
PO_CPU_CLONES void add(const Tile<float>& tile, int64_t height, int64_t width, float* out, int64_t pitch) {
  added_tile(tile, height, width, out, pitch);
}
PO_CPU_CLONES void add(const Tile<double>& tile, int64_t height, int64_t width, float* out, int64_t pitch) {
  added_tile(tile, height, width, out, pitch);
}

// Accumulator type of a Gram's chains. Better sums would not show beside the rounding of 16-bit inputs.
template <class T>
using GramSum = std::conditional_t<std::is_same_v<T, float>, double, float>;

// Some rows of the Gram of some pixels of one sample, on and below the diagonal.
template <class T>
void partial_gram(const T* x, const FeatureMap& map, int64_t pixels, RowBand band, float* gram) {
  const int64_t channels = map.channels, panel = kPanelPixels * kTileColumns;
  std::vector<float> panels(ceil_div(band.end, kTileColumns) * panel);
  const auto channel = [&](int64_t i) { return &panels[i / kTileColumns * panel + i % kTileColumns]; };
  for (int64_t first = 0; first < pixels; first += kPanelPixels) {
    const int64_t count = std::min(kPanelPixels, pixels - first);
    const T* from = x + first * map.stride_p;
    if (map.layout() == Layout::kNCHW) {
      pack_columns(from, map.stride_c, band.end, count, panels.data(), panel);
    } else {
      pack_lines(from, map.stride_p, count, band.end, panels.data(), panel);
    }
    for (int64_t j = 0; j < band.end; j += kTileColumns) {
      const int64_t width = std::min(kTileColumns, channels - j);
      multiply_rows<GramSum<T>>(std::max(j, band.first), band.end, channel, kTileColumns, channel(j), count,
                                [&](int64_t i, int64_t height, const Tile<GramSum<T>>& tile) {
                                  float* to = gram + i * channels + j;
                                  first == 0 ? store(tile, height, width, to, channels)
                                             : add(tile, height, width, to, channels);
                                });
    }
  }
}

// A part of a gradient: where it is written and what is added to it, null for nothing.
template <class T>
struct GradientPart {
  T* out;
  int64_t out_pitch;  // from line to line
  const T* other;
  int64_t other_pitch;

  // The rows of a tile, from element `along` of line `line` on.
  void store_tile(int64_t line, int64_t along, int64_t height, int64_t width, Tile<float>& tile) const {
    if (other != nullptr) add_rows(other + line * other_pitch + along, other_pitch, height, width, tile);
    store(tile, height, width, out + line * out_pitch + along, out_pitch);
  }
};

// S X of one sample in NCHW: rows of S, which stay in L1, by panels of pixels.
template <class T>
void channel_gradient(const float* symmetric, const T* x, int64_t pitch, int64_t channels, int64_t pixels,
                      const GradientPart<T>& part, float* panels) {
  const int64_t panel = channels * kTileColumns;
  pack_lines(x, pitch, channels, pixels, panels, panel);
  const auto row = [&](int64_t i) { return symmetric + i * channels; };
  for (int64_t i = 0; i < channels; i += kTileRows) {
    for (int64_t j = 0; j < pixels; j += kTileColumns) {
      multiply_rows<float>(i, std::min(i + kTileRows, channels), row, 1, panels + j * channels, channels,
                           [&](int64_t, int64_t height, Tile<float>& tile) {
                             part.store_tile(i, j, height, std::min(kTileColumns, pixels - j), tile);
                           });
    }
  }
}

// X^T S of one sample in NHWC: pixels by panels of S, one after another.
template <class T>
void pixel_gradient(const float* symmetric, const T* x, int64_t pitch, int64_t channels, int64_t pixels,
                    const GradientPart<T>& part, float* widened, float* panel) {
  widen_lines(x, pitch, pixels, channels, widened);
  const auto row = [&](int64_t i) { return widened + i * channels; };
  for (int64_t j = 0; j < channels; j += kTileColumns) {
    const int64_t width = std::min(kTileColumns, channels - j);
    pack_lines(symmetric + j, channels, channels, width, panel, 0);
    multiply_rows<float>(0, pixels, row, 1, panel, channels, [&](int64_t i, int64_t height, Tile<float>& tile) {
      part.store_tile(i, j, height, width, tile);
    });
  }
}

}  // namespace

template <class T>
void block_gram(const T* x, const FeatureMap& map, float* gram) {
  gram_by_parts(x, map, kPanelPixels, gram, [&](const T* from, int64_t pixels, RowBand band, float* partial) {
    partial_gram(from, map, pixels, band, partial);
  });
}

template <class T>
void block_gradient(const float* symmetric, const T* x, const FeatureMap& map, const T* other,
                    const FeatureMap& other_map, T* out, const FeatureMap& out_map) {
  const bool nchw = map.layout() == Layout::kNCHW;
  const auto pitch = [&](const FeatureMap& of) { return nchw ? of.stride_c : of.stride_p; };
  const int64_t channels = map.channels, area = channels * channels;
  const int64_t most = std::min(kBlockElements / channels, ceil_div(map.batch * map.pixels, kMinTasks));
  const int64_t step = ceil_div(std::max<int64_t>(most, 1), kTileColumns) * kTileColumns;
  const int64_t blocks = ceil_div(map.pixels, step);
  torch::stable::parallel_for(
      0, map.batch * blocks, ceil_div(kGrain, channels * step), [&](int64_t begin, int64_t end) {
        std::vector<float> block(step * channels), panel(channels * kTileColumns);
        for (int64_t task = begin; task < end; ++task) {
          const int64_t n = task / blocks, first = task % blocks * step, pixels = std::min(step, map.pixels - first);
          const T* from = x + n * map.stride_n + first * map.stride_p;
          const auto start = [&](const FeatureMap& of) { return n * of.stride_n + first * of.stride_p; };
          const GradientPart<T> part{out + start(out_map), pitch(out_map),
                                     other == nullptr ? nullptr : other + start(other_map), pitch(other_map)};
          if (nchw) {
            channel_gradient(symmetric + n * area, from, pitch(map), channels, pixels, part, block.data());
          } else {
            pixel_gradient(symmetric + n * area, from, pitch(map), channels, pixels, part, block.data(), panel.data());
          }
        }
      });
}

template void block_gram(const float*, const FeatureMap&, float*);
#define PO_BLOCK_PRODUCTS_OF(T)                                                                            \
  template void block_gram(const T*, const FeatureMap&, float*);                                           \
  template void block_gradient(const float*, const T*, const FeatureMap&, const T*, const FeatureMap&, T*, \
                               const FeatureMap&);
PO_BLOCK_PRODUCTS_OF(Half)
PO_BLOCK_PRODUCTS_OF(BFloat16)

}  // namespace perceptual_ops
