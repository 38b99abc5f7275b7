"""What the launchers of channel statistics may move (tests/host/traffic.py says what the fields of a row are)."""

from __future__ import annotations

from functools import partial
from math import prod
from types import ModuleType

import torch

from host import cases_channel_statistics as cases
from host.memory import element
from host.traffic import Bytes, Row, Shapes
from host.traffic_dists import DTYPES, FP32, LAYOUTS, TAPS, layers
from host.worker import Launch


def value(dtype: torch.dtype, layout: str, shapes: Shapes) -> Launch:
    return cases.channel_statistics(dtype, shapes[0][0], layers(layout, shapes))[0]


def gradient(adds: bool, dtype: torch.dtype, layout: str, shapes: Shapes) -> Launch:
    return cases.channel_statistics_backward(dtype, shapes[0][0], layers(layout, shapes), adds)[0]


def needed(adds: bool, of_gradient: bool, shapes: Shapes, size: int) -> Bytes:
    """Maps, those of every other layer that are added, and two numbers of each channel."""
    numbers = 2 * FP32 * sum(n * c for n, c, _, _ in shapes)
    found = {"x": size * sum(map(prod, shapes)), "statistics": numbers}
    if of_gradient:
        found |= {"dx": found["x"], "slopes": numbers}
    if adds:
        found |= {"other": size * sum(map(prod, shapes[::2])), "grad": FP32 * shapes[0][0]}
    return found


def workspace(layout: str, module: ModuleType, dtype: torch.dtype, shapes: Shapes) -> Bytes:
    sizes = [(layout == "nhwc", c, h * w) for _, c, h, w in shapes]
    partial_sums, groups = module.statistics_sizes(element(dtype), sizes, shapes[0][0])
    return {"partial": FP32 * partial_sums, "arrivals": 4 * groups}


ROWS = [
    *[
        Row(
            "channel_statistics",
            value,
            partial(needed, False, False),
            TAPS[:1],
            workspace=partial(workspace, layout),
            dtypes=DTYPES,
            layouts=(layout,),
        )
        for layout in LAYOUTS
    ],
    *[
        Row(
            "channel_statistics_backward",
            partial(gradient, adds),
            partial(needed, adds, True),
            TAPS[:1],
            dtypes=DTYPES,
            layouts=LAYOUTS,
            variant="added" if adds else "",
        )
        for adds in (False, True)
    ],
]
