"""What the launchers of DISTS and its pooling may move (tests/host/traffic.py says what the fields of a row are)."""

from __future__ import annotations

from functools import partial
from math import prod
from types import ModuleType

import torch

from host import cases_dists, cases_l2_pool
from host.cases_dists import Layer
from host.memory import element
from host.traffic import HEAD, Bytes, Row, Shapes
from host.worker import Launch

DTYPES = (torch.bfloat16, torch.float32)
LAYOUTS = ("nchw", "nhwc")
TAPS = (HEAD, ("image",))
FP32 = 4  # bytes of an accumulator


def layers(layout: str, shapes: Shapes) -> list[Layer]:
    return [Layer(layout, c, h * w, targets=n) for n, c, h, w in shapes]


def dists(dtype: torch.dtype, layout: str, shapes: Shapes) -> Launch:
    return cases_dists.dists(dtype, shapes[0][0], layers(layout, shapes))[0]


def dists_backward(by: str, dtype: torch.dtype, layout: str, shapes: Shapes) -> Launch:
    return cases_dists.dists_backward(dtype, shapes[0][0], layers(layout, shapes), by)[0]


def needed(maps: tuple[str, ...], per_sample: tuple[str, ...], shapes: Shapes, size: int) -> Bytes:
    """Maps of every layer, its numbers by channel, and numbers by sample."""
    channels = FP32 * sum(shape[1] for shape in shapes)
    return {
        **{name: size * sum(map(prod, shapes)) for name in maps},
        **{name: channels for name in ("alpha", "beta")},
        "statistics": 6 * shapes[0][0] * channels,
        **{name: FP32 * shapes[0][0] * (len(shapes) if name == "values" else 1) for name in per_sample},
    }


def workspace(layout: str, module: ModuleType, dtype: torch.dtype, shapes: Shapes) -> Bytes:
    batch = shapes[0][0]
    partial_sums, groups = module.sizes(element(dtype), [(layout == "nhwc", c, h * w) for _, c, h, w in shapes], batch)
    return {"partial": FP32 * partial_sums, "of_groups": FP32 * groups, "arrivals": 4 * (batch + groups)}


def pool_bytes(pooled: str, maps: tuple[str, ...], shapes: Shapes, size: int) -> Bytes:
    batch, channels, *sides = shapes[0]
    result = batch * channels * prod((side - 1) // 2 + 1 for side in sides)
    return {pooled: size * result, **{name: size * prod(shapes[0]) for name in maps}}


ROWS = [
    *[
        Row(
            "dists",
            dists,
            partial(needed, ("x", "y"), ("values", "loss")),
            TAPS,
            workspace=partial(workspace, layout),
            dtypes=DTYPES,
            layouts=(layout,),
        )
        for layout in LAYOUTS
    ],
    *[
        Row(
            "dists_backward",
            partial(dists_backward, by),
            partial(needed, ("x", "y", *gradients), ("grad",)),
            taps,
            dtypes=DTYPES,
            layouts=layouts,
            variant=f"by_{by}",
        )
        for by, gradients, taps, layouts in [
            ("x", ("dx",), TAPS, LAYOUTS),
            ("xy", ("dx", "dy"), TAPS[:1], LAYOUTS[1:]),
        ]
    ],
    Row(
        "l2_pool",
        lambda dtype, layout, shapes: cases_l2_pool.l2_pool(dtype, shapes[0], 0, 0)[0],
        partial(pool_bytes, "pooled", ("x",)),
        (("relu1_2",),),
        dtypes=DTYPES,
        layouts=("nhwc",),
    ),
    Row(
        "l2_pool_backward",
        lambda dtype, layout, shapes: cases_l2_pool.l2_pool_backward(dtype, shapes[0], 0, 0)[0],
        partial(pool_bytes, "grad", ("x", "dx")),
        (("relu1_2",),),
        dtypes=DTYPES,
        layouts=("nhwc",),
    ),
]
