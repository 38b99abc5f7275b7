"""Which cases of channel statistics run: all of them, or few small ones; see suite.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from maps import DTYPES

from host import cases_channel_statistics as cases
from host.cases import Case, named
from host.cases_dists import Layer
from host.suite_dists import FAR_LAYERS, LAYERS, MANY_LAYERS, SMALL_LAYERS


def statistics_cases() -> list[Case]:
    return [*_cases(DTYPES, [*LAYERS, MANY_LAYERS]), *_special_cases(DTYPES)]


def small_statistics_cases() -> list[Case]:
    dtypes = [torch.float32, torch.bfloat16]
    return [*_cases(dtypes, SMALL_LAYERS), *_cases(dtypes[:1], [MANY_LAYERS]), *_special_cases(dtypes)]


def _cases(dtypes: list[torch.dtype], inputs: list[tuple[int, list[Layer]]]) -> Iterator[Case]:
    for number, (dtype, (batch, layers)) in enumerate(product(dtypes, inputs)):
        shapes = [f"{layer.layout}{layer.channels}x{layer.pixels}" for layer in layers[:4]]
        make = partial(cases.channel_statistics, dtype, batch, layers)
        yield Case(named("channel_statistics", dtype, batch, *shapes), make)
        adds = number % 2 == 0
        make = partial(cases.channel_statistics_backward, dtype, batch, layers, adds)
        yield Case(named("channel_statistics_backward", dtype, batch, *shapes, "added" if adds else ""), make)


def _special_cases(dtypes: list[torch.dtype]) -> Iterator[Case]:
    for dtype, layout in product(dtypes, ["nhwc", "nchw"]):
        make = partial(cases.channel_statistics_of_nan, dtype, layout)
        yield Case(named("channel_statistics", dtype, layout, "nan"), make)
    make = partial(cases.channel_statistics, torch.float32, *FAR_LAYERS, far=True)
    yield Case(named("channel_statistics", torch.float32, "far from zero"), make)
    make = partial(cases.channel_statistics_backward, torch.float32, *FAR_LAYERS, adds=True, far=True)
    yield Case(named("channel_statistics_backward", torch.float32, "far from zero"), make)
