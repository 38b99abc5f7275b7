"""Which cases of DISTS and its pooling run: all of them, or few small ones; see suite.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from maps import DTYPES

from host import cases_dists as cases
from host import cases_l2_pool
from host.cases import Case, named
from host.cases_dists import Layer

# (N, layers). NHWC by packs in several chunks, one of them short; pixels folded to packs; NCHW by packs, with a group
# of channels that is not full; one target for all, gaps. Then what goes by single elements: odd planes, maps that begin
# between packs, channels that fill no packs, more chunks than warps; one element.
LAYERS: list[tuple[int, list[Layer]]] = [
    (2, [Layer("nhwc", 64, 1050, 2, 16), Layer("nhwc", 3, 2096, 2), Layer("nchw", 11, 80), Layer("nhwc", 136, 9)]),
    (2, [Layer("nchw", 3, 37, 2), Layer("nhwc", 8, 40, 1, 0, 1), Layer("nhwc", 33, 1101), Layer("nhwc", 1, 1)]),
    (1, [Layer("nchw", 1, 4613), Layer("nhwc", 5, 9), Layer("nchw", 3, 4800, 1, 0, 16)]),
]
SMALL_LAYERS = [
    (2, [Layer("nhwc", 64, 350, 2, 8), Layer("nhwc", 3, 48, 2), Layer("nchw", 11, 80)]),
    (2, [Layer("nhwc", 33, 1101), Layer("nchw", 3, 37, 2, 1), Layer("nhwc", 8, 20, 1, 0, 1)]),
]
# More layers than a launch takes.
MANY_LAYERS = (2, [Layer(("nhwc", "nchw")[number % 2], 1 + number % 5, 4, 2) for number in range(18)])
FAR_LAYERS = (2, [Layer("nhwc", 16, 1050, 2), Layer("nchw", 3, 2096)])

# (shape, elements before the map, elements between the samples). By packs and, where channels fill none or maps begin
# between them, by elements; several tiles along both axes, odd and even sides, several groups of channels, one pixel.
POOLED: list[tuple[tuple[int, ...], int, int]] = [
    ((2, 16, 19, 35), 0, 16),
    ((1, 136, 6, 5), 0, 0),
    ((2, 11, 8, 17), 0, 0),
    ((2, 8, 5, 18), 1, 3),
    ((1, 1, 1, 1), 0, 0),
]
SMALL_POOLED = [((2, 8, 18, 17), 0, 8), ((2, 11, 9, 4), 0, 5), ((1, 8, 3, 2), 1, 0)]


def dists_cases() -> list[Case]:
    return [*_cases(DTYPES, [*LAYERS, MANY_LAYERS], ["x", "y", "xy"]), *_special_cases(DTYPES)]


def small_dists_cases() -> list[Case]:
    dtypes = [torch.float32, torch.bfloat16]
    return [
        *_cases(dtypes, SMALL_LAYERS, ["xy"]),
        *_cases(dtypes[:1], [MANY_LAYERS], ["x", "y"]),
        *_special_cases(dtypes),
    ]


def l2_pool_cases() -> list[Case]:
    return list(_l2_pool_cases(DTYPES, POOLED))


def small_l2_pool_cases() -> list[Case]:
    return list(_l2_pool_cases([torch.float32, torch.bfloat16], SMALL_POOLED))


def _l2_pool_cases(dtypes: list[torch.dtype], maps: list[tuple[tuple[int, ...], int, int]]) -> Iterator[Case]:
    for dtype, map_ in product(dtypes, maps):
        yield Case(named("l2_pool", dtype, *map_), partial(cases_l2_pool.l2_pool, dtype, *map_))
        make = partial(cases_l2_pool.l2_pool_backward, dtype, *map_)
        yield Case(named("l2_pool_backward", dtype, *map_), make)


def _cases(dtypes: list[torch.dtype], inputs: list[tuple[int, list[Layer]]], by: list[str]) -> Iterator[Case]:
    for number, (dtype, (batch, layers)) in enumerate(product(dtypes, inputs)):
        shapes = [f"{layer.layout}{layer.channels}x{layer.pixels}" for layer in layers[:4]]
        yield Case(named("dists", dtype, batch, *shapes), partial(cases.dists, dtype, batch, layers))
        wanted = by[number % len(by)]
        make = partial(cases.dists_backward, dtype, batch, layers, wanted)
        yield Case(named("dists_backward", dtype, batch, *shapes, wanted), make)


def _special_cases(dtypes: list[torch.dtype]) -> Iterator[Case]:
    for dtype, layout in product(dtypes, ["nhwc", "nchw"]):
        yield Case(named("dists", dtype, layout, "nan"), partial(cases.dists_of_nan, dtype, layout))
    make = partial(cases.dists, torch.float32, *FAR_LAYERS, cases.far_from_zero)
    yield Case(named("dists", torch.float32, "far from zero"), make)
    make = partial(cases.dists_backward, torch.float32, *FAR_LAYERS, "xy", cases.far_from_zero)
    yield Case(named("dists_backward", torch.float32, "far from zero"), make)
