"""What LPIPS may move; rows of traffic_table.py."""

from __future__ import annotations

from math import prod
from types import ModuleType

import torch

from host import cases_lpips
from host.cases_lpips import Wanted
from host.memory import element
from host.traffic import HEAD, Bytes, Row, Shapes
from host.worker import Launch

FP32 = 4  # bytes of an accumulator
# Variant, what is wanted, the maps and the other buffers that it reads and writes.
VARIANTS = {
    "value": (Wanted("", True), ("x", "y"), ("values", "loss")),
    "gradient": (Wanted("x", False), ("x", "y", "dx"), ("grad",)),
    "both": (Wanted("x", True), ("x", "y", "dx"), ("values", "loss", "grad")),
    "both_sides": (Wanted("xy", True), ("x", "y", "dx", "dy"), ("values", "loss", "grad")),
    "map": (Wanted("", False, maps=True), ("x", "y"), ("map",)),
    "map_gradient": (Wanted("x", False, maps=True), ("x", "y", "dx"), ("map_grad",)),
}


def launch(variant: str, layout: str, dtype: torch.dtype, shapes: Shapes) -> Launch:
    wanted, _, others = VARIANTS[variant]
    layers = [(*shape[1:], shape[0], 0, 0) for shape in shapes]
    return cases_lpips.lpips(dtype, wanted, layout, shapes[0][0], layers, 1e-10, False, "grad" in others)[0]


def needed(variant: str, shapes: Shapes, size: int) -> Bytes:
    _, maps, others = VARIANTS[variant]
    batch, pixels = shapes[0][0], sum(n * h * w for n, _, h, w in shapes)
    numbers = {"values": len(shapes) * batch, "loss": batch, "grad": batch, "map": pixels, "map_grad": pixels}
    return {
        **{name: size * sum(map(prod, shapes)) for name in maps},
        "weights": FP32 * sum(shape[1] for shape in shapes),
        **{name: FP32 * numbers[name] for name in others},
    }


def workspace(layout: str, module: ModuleType, dtype: torch.dtype, shapes: Shapes) -> Bytes:
    batch = shapes[0][0]
    blocks = [module.blocks(element(dtype), channels, h * w, batch, layout) for _, channels, h, w in shapes]
    return {"partial": FP32 * sum(blocks), "arrivals": 4 * (len(shapes) + 1) * batch}


ROWS = [
    Row(
        "lpips",
        lambda dtype, layout, shapes, variant=variant: launch(variant, layout, dtype, shapes),
        lambda shapes, size, variant=variant: needed(variant, shapes, size),
        (HEAD,),
        workspace=(lambda *key, layout=layout: workspace(layout, *key)) if wanted.values else lambda *_: {},
        dtypes=(torch.bfloat16, torch.float32),
        layouts=(layout,),
        traffic=1.01,
        variant=variant,
    )
    for variant, (wanted, _, _) in VARIANTS.items()
    for layout in ("nhwc", "nchw")
    if layout == "nhwc" or variant == "both"
]
