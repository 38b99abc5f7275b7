"""Seeded faults in the kernels, each of which the host execution must find: what the tests of tests/host can see."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from host.mutants import ADDRESS, GUARD, ORDER, VALUES, Mutant, build_mutants
from host.mutants_pointwise import POINTWISE_MUTANTS
from host.suite import small_cases
from host.worker import run_apart

GRAM = "gram/gram.cuh"
REDUCE = "common/reduce.cuh"
WHOLE, READ = "__syncthreads();  // the tiles are whole\n", "__syncthreads();  // the tiles are read"
ROW_WALK = "for (uint32_t column = threadIdx.x; column < channels; column += kRowThreads) {\n    const "
PLACES = "int64_t place = int64_t(row) * channels + column, mirrored = int64_t(column) * channels + row;\n    "

# name, launcher, file, what stands there, what the mutant says, how it shows
MUTANTS = [
    # partial sums of the Gram matrix
    Mutant("gram: tiles used before they are whole", "gram", GRAM,
           f"tile_column * kTile, p, b);\n    {WHOLE}", "tile_column * kTile, p, b);\n", f"{ORDER}|{VALUES}"),
    Mutant("gram: tiles overwritten while they are read", "gram", GRAM,
           f"multiply_tiles(a, b, sums);\n    {READ}", "multiply_tiles(a, b, sums);\n    // ", ORDER),
    Mutant("gram: split runs to the end of the map", "gram", GRAM,
           "end = min(map.pixels, (split + 1) * pixels_per_split)", "end = map.pixels", VALUES),
    Mutant("gram: one pixel of the next split", "gram", GRAM,
           "first_deep + deep < deep_end", "first_deep + deep <= deep_end", VALUES),
    Mutant("gram: swapped layout", "gram", GRAM,
           "map.stride_c, map.stride_p, tile_row * kTile", "map.stride_p, map.stride_c, tile_row * kTile", ADDRESS,
           configuration="asan"),
    Mutant("gram: workspace by sample and split", "gram", GRAM,
           "partial + (split * map.batch + n)", "partial + (n * splits + split)", VALUES),
    Mutant("gram: one row too many", "gram", GRAM,
           "if (row < map.channels && column", "if (row <= map.channels && column", f"{VALUES}|{ORDER}|{GUARD}"),
    Mutant("gram: rows read after the last channel", "gram", GRAM,
           "first_row + row < rows && ", "", ADDRESS, configuration="asan"),
    # sum of the splits
    Mutant("gram finish: not mirrored", "gram", GRAM,
           "int64_t(max(row, column)) * channels + min(row, column)", "int64_t(row) * channels + column", VALUES),
    Mutant("gram finish: stride of the splits", "gram", GRAM,
           "source[split * batch * area]", "source[split * area]", VALUES),
    Mutant("gram finish: last split left out", "gram", GRAM, "split < splits;", "split + 1 < splits;", VALUES),
    # value of the style distance
    Mutant("style value: one target is a batch", "style_distance", GRAM,
           "targets[n * target_stride + i]", "targets[n * area + i]", VALUES),
    Mutant("style value: last element left out", "style_distance", GRAM, "i < area;", "i + 1 < area;", VALUES),
    Mutant("style value: earlier layers forgotten", "style_distance", GRAM,
           "(first_layer ? Acc(0) : loss[n]) + weight * values[n]", "weight * values[n]", VALUES),
    Mutant("style value: sums of warps read too soon", "style_distance", REDUCE,
           "warp_sums[warp] = value;\n  __syncthreads();", "warp_sums[warp] = value;", f"{ORDER}|{VALUES}"),
    Mutant("style value: lanes left out of a sum", "style_distance", REDUCE, "offset > 0;", "offset > 1;", VALUES),
    # slopes of the style distance
    Mutant("style slope: not symmetrised", "style_distance", GRAM, "(here + there)", "(here + here)", VALUES),
    Mutant("style slope: target not mirrored", "style_distance", GRAM,
           "- target[mirrored]", "- target[place]", VALUES),
    Mutant("style slope: one walk along a row", "style_distance", GRAM,
           f"{ROW_WALK}{PLACES}const Acc here",
           f"{ROW_WALK.replace('< channels', '< kRowThreads')}{PLACES}const Acc here", VALUES),
    # D + D^T
    Mutant("symmetrise: not symmetrised", "symmetrise", GRAM,
           "slopes[first + place] + slopes[first + mirrored]", "slopes[first + place] + slopes[first + place]", VALUES),
    Mutant("symmetrise: every sample the first", "symmetrise", GRAM,
           "first = blockIdx.x / channels * (int64_t(channels) * channels)", "first = 0", VALUES),
    Mutant("symmetrise: one walk along a row", "symmetrise", GRAM,
           f"{ROW_WALK}{PLACES}symmetric[",
           f"{ROW_WALK.replace('< channels', '< kRowThreads')}{PLACES}symmetric[", VALUES),
    # gradient of the Gram matrix
    Mutant("gram gradient: tiles used before they are whole", "gram_gradient", GRAM,
           f"pixels);\n    {WHOLE}", "pixels);\n", f"{ORDER}|{VALUES}"),
    Mutant("gram gradient: tiles overwritten while they are read", "gram_gradient", GRAM,
           f"sums);\n    }}\n    {READ}", "sums);\n    }\n    // ", ORDER),
    Mutant("gram gradient: NHWC as NCHW", "gram_gradient", GRAM,
           "multiply_tiles(pixels, s, sums)", "multiply_tiles(s, pixels, sums)", VALUES),
    Mutant("gram gradient: strides of the features", "gram_gradient", GRAM,
           "n * dx_map.stride_n + channel", "n * map.stride_n + channel", f"{VALUES}|{ORDER}|{GUARD}"),
    Mutant("gram gradient: one pixel too many", "gram_gradient", GRAM,
           "pixel < map.pixels) {", "pixel <= map.pixels) {", f"{VALUES}|{ORDER}|{GUARD}"),
    Mutant("gram gradient: upstream of the first sample", "gram_gradient", GRAM, ": grad[n];", ": grad[0];", VALUES),
    *POINTWISE_MUTANTS,
]  # fmt: skip


def outcome(mutant: Mutant, folder) -> str:
    """What the first case to fail says."""
    pairs = [case.make() for case in small_cases() if case.name.split()[0] == mutant.launcher]
    try:
        results = run_apart(folder, [launch for launch, _ in pairs], mutant.configuration)
    except RuntimeError as error:
        return str(error)
    for (_, check), outputs in zip(pairs, results, strict=True):
        if isinstance(outputs, str):
            return outputs
        try:
            check(outputs)
        except AssertionError as error:
            return f"wrong values: {error}"
    return "not caught"


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    folders = build_mutants(MUTANTS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = pool.map(lambda mutant: outcome(mutant, folders[mutant.name]), MUTANTS)
        return {mutant.name: sentence for mutant, sentence in zip(MUTANTS, said, strict=True)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_fault_is_found(mutant: Mutant, outcomes: dict[str, str]) -> None:
    assert re.search(mutant.caught, outcomes[mutant.name]), outcomes[mutant.name]
