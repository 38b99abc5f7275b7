"""What each launcher may move and multiply: one row a launcher (tests/host/traffic.py says what its fields are)."""

from __future__ import annotations

from math import prod
from types import ModuleType

import torch
from maps import LAYOUTS

from host import cases
from host.memory import map_numbers
from host.traffic import Bytes, Row, Shape
from host.worker import Launch

TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
DTYPES = (torch.bfloat16, torch.float32)
BOTH = ("nchw", "nhwc")
FP32 = 4  # bytes of an accumulator


def matrices(shape: Shape) -> int:
    """Bytes of a Gram matrix for every sample."""
    return shape[0] * shape[1] ** 2 * FP32


def gram_workspace(module: ModuleType, dtype: torch.dtype, layout: str, shape: Shape) -> Bytes:
    x = LAYOUTS[layout](torch.empty(shape, device="meta"))
    return {"partial": module.splits(map_numbers(x, layout)) * matrices(shape)}


def feature_workspace(module: ModuleType, dtype: torch.dtype, layout: str, shape: Shape) -> Bytes:
    return {"partial": shape[0] * module.blocks(prod(shape[1:])) * FP32}


def variation_workspace(module: ModuleType, dtype: torch.dtype, layout: str, shape: Shape) -> Bytes:
    return {"partial": shape[0] * module.blocks(cases.image_rows(layout, shape)) * FP32}


def losses(shape: Shape, *names: str) -> Bytes:
    """One number a sample."""
    return {name: shape[0] * FP32 for name in names}


def feature_loss(dtype: torch.dtype, layout: str, shape: Shape) -> Launch:
    return cases.feature_loss(dtype, "mse", shape[0], prod(shape[1:]), shape[0], 0, True)[0]


def feature_loss_gradient(dtype: torch.dtype, layout: str, shape: Shape) -> Launch:
    return cases.feature_loss_gradient(dtype, "mse", shape[0], prod(shape[1:]), shape[0], 0)[0]


ROWS = [
    Row(
        "gram",
        lambda dtype, layout, shape: cases.gram(dtype, layout, shape)[0],
        lambda shape, size: {"x": prod(shape) * size, "gram": matrices(shape)},
        TAPS,
        workspace=gram_workspace,
        dtypes=DTYPES,
        layouts=BOTH,
        traffic=2.1,  # every split leaves its tiles in the workspace, and small maps of many channels are split too
        flop=lambda shape: shape[0] * shape[1] * (shape[1] + 1) * prod(shape[2:]),
    ),
    Row(
        "gram_gradient",
        lambda dtype, layout, shape: cases.gram_gradient(dtype, layout, shape, True)[0],
        lambda shape, size: {
            "x": prod(shape) * size,
            "dx": prod(shape) * size,
            "symmetric": matrices(shape),
            **losses(shape, "grad"),
        },
        TAPS,
        dtypes=DTYPES,
        layouts=BOTH,
        flop=lambda shape: 2 * shape[1] * prod(shape),
    ),
    Row(
        "style_distance",
        lambda dtype, layout, shape: cases.style_distance(dtype, "mse", shape[0], shape[1], 1, True)[0],
        lambda shape, size: {
            "gram": matrices(shape),
            "targets": matrices((1, *shape[1:])),
            "slopes": matrices(shape),
            **losses(shape, "values", "loss"),
        },
        TAPS,
        traffic=1.6,  # two kernels read the matrices
    ),
    Row(
        "symmetrise",
        lambda dtype, layout, shape: cases.symmetrise(dtype, shape[0], shape[1])[0],
        lambda shape, size: {"slopes": matrices(shape), "symmetric": matrices(shape)},
        TAPS,
    ),
    Row(
        "feature_loss",
        feature_loss,
        lambda shape, size: {"x": prod(shape) * size, "y": prod(shape) * size, **losses(shape, "values", "loss")},
        ("relu3_3",),
        workspace=feature_workspace,
        dtypes=DTYPES,
    ),
    Row(
        "feature_loss_gradient",
        feature_loss_gradient,
        lambda shape, size: {name: prod(shape) * size for name in ("x", "y", "dx")} | losses(shape, "grad"),
        ("relu3_3",),
        dtypes=DTYPES,
    ),
    Row(
        "total_variation",
        lambda dtype, layout, shape: cases.total_variation(dtype, "l1", layout, shape, 0)[0],
        lambda shape, size: {"x": prod(shape) * size, **losses(shape, "values")},
        ("image",),
        workspace=variation_workspace,
        dtypes=DTYPES,
        layouts=BOTH,
    ),
    Row(
        "total_variation_gradient",
        lambda dtype, layout, shape: cases.total_variation_gradient(dtype, "l1", layout, shape, 0)[0],
        lambda shape, size: {"x": prod(shape) * size, "dx": prod(shape) * size, **losses(shape, "grad")},
        ("image",),
        dtypes=DTYPES,
        layouts=BOTH,
    ),
]
