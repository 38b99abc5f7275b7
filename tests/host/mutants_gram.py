"""Seeded faults of the Gram room."""

from __future__ import annotations

from host.mutants import ADDRESS, GUARD, MISALIGNED, ORDER, VALUES, Mutant

GRAM, FINISH, GRADIENT, RESULTS, SLOPES, PANEL, PRODUCT = (
    f"gram/{name}.cuh" for name in ("gram", "finish", "gradient", "results", "slopes", "panel", "product")
)
PLAN = "gram/plan.h"
STAGE = "«__syncthreads();»  // this stage is whole, and the one before it is read"
PRODUCTS = """
        if constexpr (sizeof(T) == 4) {
          // An infinity enters only the product of whole values: times a lower part its sign could differ.
          multiply(lower, b.upper, j, sums);
          multiply(upper, b.lower, j, sums);
        }
        multiply(whole, b.whole, j, sums);
"""
PROMOTION = """#pragma unroll
        for (int e = 0; e < 4; ++e) totals[i][j][e] += sums[e];"""

# name, launcher, file, what stands there, what the mutant says, how it shows
MUTANTS = [
    # panels
    Mutant("panel: a pixel of the next range", "gram", PANEL,
           "left = «at < matrix.rows ? depth_end - first : 0»", "at < matrix.rows ? depth_end - first + 1 : 0",
           VALUES, case="bfloat16 sliced nchw [(1, 256"),
    Mutant("panel: rows read after the last channel", "gram", PANEL,
           "left = «at < matrix.rows ? depth_end - first : 0»", "depth_end - first", ADDRESS,
           configuration="address", case="32768"),
    Mutant("panel: wide copies of what is not aligned", "gram", PANEL,
           "if («aligned») {", "true", MISALIGNED),
    Mutant("panel: half of a whole panel twice", "gram", PANEL,
           "from + «line_offset<T, kDepthAlong>(lines, line_stride)»", "0", VALUES),
    Mutant("panel: whole panels on top of each other", "gram", PANEL,
           "from += panel_stride, «to += kPanelBytes»", "to += 0", VALUES),
    # how stages are spread over blocks
    Mutant("plan: pieces of a tile share their sums", "gram", PLAN,
           "kTiles.first_of(tile) + «stage / run_stages»", "layer.first / run_stages", f"{ORDER}|{VALUES}"),
    Mutant("plan: a piece runs into the next tile", "gram", PLAN,
           "tile_left < run_left ? tile_left : run_left", "run_left", f"{ORDER}|{VALUES}"),
    Mutant("plan: a tile without its last piece", "gram", PLAN,
           "last / run_stages - first / run_stages + 1", "last / run_stages - first / run_stages", VALUES),
    # sums over pieces
    Mutant("gram: stages used before they are whole", "gram", GRAM,
           STAGE, "", f"{ORDER}|{VALUES}|missing lanes"),
    Mutant("gram: no wait for the copies", "gram", GRAM, "wait_copies<kPipelineStages - 2>();", "",
    f"{ORDER}|{VALUES}"), Mutant("gram: a stage too few waited for", "gram", GRAM,
           "wait_copies<kPipelineStages - 2>();", "wait_copies<kPipelineStages - 1>();", f"{ORDER}|{VALUES}"),
    Mutant("gram: a buffer filled while it is read", "gram", GRAM,
           "unsigned char* to = shared + «stage % kPipelineStages»", "stage % (kPipelineStages - 1)",
           f"{ORDER}|{VALUES}", case="32768"),
    Mutant("gram: every piece begins where its tile does", "gram", GRAM,
           "int64_t(piece.first) * job.stage_pixels", "0", VALUES),
    Mutant("gram: a job replaced while it is read", "gram", GRAM,
           "«__syncthreads();»  // the job is done", "", f"{ORDER}|{VALUES}|divergent barrier"),
    Mutant("gram: blocks beyond the last run have one", "gram", GRAM,
           "job.next >= job.end", "job.next == job.end", ADDRESS, configuration="address"),
    Mutant("gram: swapped layout", "gram", GRAM,
           "layer.nhwc ? map.stride_p : map.stride_c", "layer.nhwc ? map.stride_c : map.stride_p",
           f"{ADDRESS}|{VALUES}|{MISALIGNED}", configuration="address"),
    Mutant("gram: two warps make the same part", "gram", GRAM,
           "kParts >> (4 * warp)", "0x71326055u >> (4 * warp)", VALUES),
    Mutant("gram: the first rows of a diagonal tile left out", "gram", GRAM,
           "!diagonal || below >= 0", "!diagonal || below > 0", VALUES),
    Mutant("gram: the last rows of a map left out", "gram", GRAM,
           "part.row + kWarpRows / 2 < rows_left", "part.row + kWarpRows < rows_left", VALUES),
    Mutant("gram: a tail taken for a whole stage", "gram", GRAM,
           "stage < job.whole_stages", "stage <= job.whole_stages", f"{VALUES}|{ADDRESS}"),
    Mutant("gram: rows beyond the last channel taken for whole", "gram", GRAM,
           "job.first_row + (narrow ? kNarrow : kTile) <= channels", "true", ADDRESS, configuration="address",
           case="32768"),
    Mutant("gram: columns read as rows", "gram", GRAM, "first_of(«job.panels[2]»)", "job.panels[1]", VALUES),
    Mutant("gram: stages of a tile on the diagonal overlap", "gram", GRAM,
           "job.stage_stride = job.stage_pixels * depth_stride", "job.stage_stride = kDepth<T> * depth_stride", VALUES,
           case="float32 nhwc [(1, 256"),
    Mutant("gram: warps' totals read too soon", "gram", GRAM,
           "«__syncthreads();»  // the totals are there", "", f"{ORDER}|{VALUES}"),
    Mutant("gram: totals over a stage that is read", "gram", GRAM,
           "«__syncthreads();»  // the last stage is read", "", f"{ORDER}|{VALUES}"),
    Mutant("gram: a pair of warps left out", "gram", GRAM, "«chunk < 3»;", "chunk < 2", VALUES),
    Mutant("gram: fragments of a diagonal tile overlap", "gram", GRAM,
           "row * (row + 1) + column", "row * row + column", f"{ORDER}|{VALUES}"),
    # products
    Mutant("product: sums of tensor cores never promoted", "gram", PRODUCT,
           f"float sums[4] = {{}};{PRODUCTS}{PROMOTION}", f"float (&sums)[4] = totals[i][j];{PRODUCTS}", VALUES),
    Mutant("product: lower parts of fp32 left out", "gram", PRODUCT,
           "multiply(lower, b.upper, j, sums);", "", VALUES, case="float32 nhwc [(1, 256"),
    Mutant("product: upper parts of fp32 with their lower bits", "gram", PRODUCT, "& «kKept»;", "~0u", VALUES,
           case="float32 nhwc [(1, 256"),
    Mutant("product: an infinity in both parts of fp32", "gram", PRODUCT, "splits ? number : 0.0f", "number", VALUES),
    Mutant("product: the largest numbers rounded to infinity", "gram", PRODUCT,
           "fabsf(number) < __uint_as_float(kTooLarge)", "fabsf(number) <= 3.40282347e+38f", VALUES),
    Mutant("product: infinities and NaN left out", "gram", PRODUCT,
           "if (splits) whole[i] = upper[i];", "whole[i] = upper[i];", VALUES),
    Mutant("product: the second columns of a pair twice", "gram", PRODUCT,
           "{pair[«j % 2 * 2»], pair", "2", VALUES),
    Mutant("product: a step along the lines by no XOR", "gram", PRODUCT,
           "(place ^ «along / kUnit<T> * 16»)", "0", VALUES),
    # sum of the pieces
    Mutant("gram finish: not mirrored", "gram", FINISH,
           "gram[sums.column_of(e) * layer.channels + sums.row_of(e)] = sums.values[e];", "",
           f"{VALUES}|{ORDER}"),
    Mutant("gram finish: stride of the pieces", "gram", FINISH,
           "tile_fragments(layer.channels) * kFragmentSize", "kFragmentSize", VALUES),
    Mutant("gram finish: last piece left out", "gram", FINISH,
           "«piece < partials.count»;", "piece + 1 < partials.count", VALUES),
    # style distance
    Mutant("style: target not mirrored", "style", FINISH, "target[mirrored]", "target[here]", VALUES),
    Mutant("style: the diagonal counted twice", "style", FINISH,
           "here == mirrored ? at.value : at.value + across.value", "at.value + across.value", VALUES),
    Mutant("style: not symmetrised", "style", FINISH, "(at.slope + across.slope)", "(at.slope + at.slope)", VALUES),
    Mutant("style: one slot for all blocks", "style", FINISH,
           "slots[blockIdx.x] = distance", "slots[0] = distance", f"{VALUES}|{ORDER}"),
    Mutant("style: layers of the launch before forgotten", "style", FINISH,
           "first_layers ? Acc(0) : loss[n]", "Acc(0)", VALUES),
    Mutant("style: layers summed too soon", "style", FINISH,
           "«__syncthreads();»  // every layer's value is there", "", f"{VALUES}|{ORDER}"),
    Mutant("style: counters not set", "style", GRAM, "i < arrival_count", "i + 1 < arrival_count", VALUES),
    # D + D^T
    Mutant("symmetrise: not symmetrised", "symmetrise", SLOPES,
           "slopes[first + place] + slopes[first + mirrored]", "slopes[first + place] + slopes[first + place]", VALUES),
    Mutant("symmetrise: every sample the first", "symmetrise", SLOPES,
           "blockIdx.x / channels * (int64_t(channels) * channels)", "0", f"{VALUES}|{ORDER}"),
    Mutant("symmetrise: one walk along a row", "symmetrise", SLOPES,
           "«column < channels»;", "column < kRowThreads", f"{VALUES}|{ORDER}"),
    # S in 16 bits
    Mutant("narrow: the power of two not undone", "gram_gradient", SLOPES, "1.0f / power", "1.0f", VALUES),
    Mutant("narrow: no power of two", "gram_gradient", SLOPES,
           "exponent == 0", "true", VALUES),
    Mutant("narrow: rows without their pitch", "gram_gradient", SLOPES,
           "row * layer.pitch", "row * layer.channels", f"{VALUES}|{ORDER}"),
    # gradient
    Mutant("gradient: stages used before they are whole", "gram_gradient", GRADIENT,
           STAGE, "", f"{ORDER}|{VALUES}"),
    Mutant("gradient: a stage too few waited for", "gram_gradient", GRADIENT,
           "wait_copies<Shape::kPipelineStages - 2>();", "wait_copies<Shape::kPipelineStages - 1>();",
           f"{ORDER}|{VALUES}"),
    Mutant("gradient: pixels beyond the last taken for whole", "gram_gradient", GRADIENT,
           "job.first_pixel + tile_pixels <= pixels", "true", ADDRESS, configuration="address",
           case="bfloat16 nhwc [(2, 128"),
    Mutant("gradient: stages of whole panels overlap", "gram_gradient", GRADIENT,
           "job.first_s + «depth»", "0", VALUES, case="float16 sliced nchw [(2, 128"),
    Mutant("gradient: rows read before they are there", "gram_gradient", RESULTS,
           "«__syncwarp();»  // the rows are there", "", f"{ORDER}|{VALUES}"),
    Mutant("gradient: results over a stage that is read", "gram_gradient", GRADIENT,
           "«__syncthreads();»  // the last stage is read", "", f"{ORDER}|{VALUES}",
           case="float16 sliced nchw [(2, 128"),
    Mutant("gradient: what is added taken before it is there", "gram_gradient", RESULTS,
           "«__syncwarp();»  // what is added is there", "", f"{ORDER}|{VALUES}"),
    Mutant("gradient: strides of dx for what is added", "gram_gradient", GRADIENT,
           "line_stride(«layer.other_map»)", "dx_map", VALUES),
    Mutant("gradient: the first sample's added to all", "gram_gradient", GRADIENT,
           "n * layer.other_map.stride_n", "0", VALUES),
    Mutant("gradient: strides of the features", "gram_gradient", GRADIENT,
           "line_stride(dx_map)", "line_stride(map)", f"{VALUES}|{ORDER}|{GUARD}", case="float16 nhwc [(2, 130"),
    Mutant("gradient: a row too many", "gram_gradient", RESULTS,
           "if («row >= rows» ||", "row > rows", f"{VALUES}|{ORDER}|{GUARD}"),
    Mutant("gradient: rows taken for whole", "gram_gradient", RESULTS,
           "first_row + kWarpRows <= writer.rows", "true", f"{VALUES}|{ORDER}|{GUARD}",
           case="bfloat16 sliced nchw [(2, 130"),
    Mutant("gradient: the last rows left out", "gram_gradient", GRADIENT,
           "first_row + part.row + kWarpRows / 2 < job.writer.rows", "false", VALUES,
           case="bfloat16 sliced nchw [(2, 130"),
    Mutant("gradient: no tail along the columns", "gram_gradient", RESULTS,
           "if (i < count) to[i] = results.values[i];", "to[i] = results.values[i];", f"{VALUES}|{ORDER}|{GUARD}"),
    Mutant("gradient: upstream of the first sample", "gram_gradient", GRADIENT, ": «grad + n»;", "grad", VALUES,
           case="bfloat16 nhwc [(2, 130"),
    Mutant("gradient: factors of the wrong axis", "gram_gradient", RESULTS,
           "channel = «kNhwc ? 8 * j + column + e : 16 * (first + i) + 8 * half + row»",
           "kNhwc ? 16 * (first + i) + 8 * half + row : 8 * j + column + e", VALUES),
]  # fmt: skip
