"""The launches of the Gram room, and what each must give."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from maps import LAYOUTS, assert_accurate, random_map
from torch import Tensor

from host.cases import DISTANCES, Check
from host.memory import (
    OUTSIDE,
    accumulator,
    assert_untouched_outside,
    element,
    from_numpy,
    like_view,
    map_numbers,
    memory_of,
)
from host.worker import Launch, Outputs
from perceptual_ops import reference

Shape = tuple[int, ...]


def _layout(layout: str, number: int) -> str:
    """The layout of one layer: "nchw+nhwc" are layers that differ."""
    layouts = layout.split("+")
    return layouts[number % len(layouts)]


def _maps(dtype: torch.dtype, layout: str, shapes: list[Shape]) -> list[Tensor]:
    return [LAYOUTS[_layout(layout, i)](random_map(shape, dtype, "cpu", i)) for i, shape in enumerate(shapes)]


def _arguments(maps: list[Tensor], layout: str) -> list[tuple]:
    return [_argument(x, _layout(layout, i)) for i, x in enumerate(maps)]


def _argument(x: Tensor, layout: str) -> tuple:
    return map_numbers(x, layout), memory_of(x), x.storage_offset()


def gram(dtype: torch.dtype, layout: str, shapes: list[Shape], cut: str = "planned") -> tuple[Launch, Check]:
    maps = _maps(dtype, layout, shapes)
    scales = [1 / (x.shape[1] * x.shape[2] * x.shape[3]) for x in maps]
    arguments = {
        "element": element(dtype),
        "maps": _arguments(maps, layout),
        "scales": scales,
        "cut": cut,
    }

    def check(outputs: Outputs) -> None:
        for x, scale, output in zip(maps, scales, outputs, strict=True):
            ours = from_numpy(output, (x.shape[0], x.shape[1], x.shape[1]))
            naive = reference.gram_matrix(x.to(accumulator(dtype)), "none") * scale
            assert_accurate(ours, naive, reference.gram_matrix(x.double(), "none") * scale)
            assert torch.equal(ours, ours.mT)

    return Launch("gram", "gram", arguments), check


def gram_of_special_numbers(dtype: torch.dtype, layout: str) -> tuple[Launch, Check]:
    """An infinity, with numbers of both signs, a NaN, the largest number: each in its row and column, and no other."""
    x = random_map((1, 70, 4, 16), dtype, "cpu").abs() + 0.5
    x[0, 7, 2, 3] = torch.inf
    x[0, 11, 2, 3] *= -1
    x[0, 23, 3, 5] = torch.nan
    x[0, :, 1, 9] /= 100
    x[0, 40, 1, 9] = torch.finfo(dtype).max
    x = LAYOUTS[layout](x)
    arguments = {"element": element(dtype), "maps": [_argument(x, layout)], "scales": [1.0], "cut": "planned"}

    def check(outputs: Outputs) -> None:
        ours, exact = from_numpy(outputs[0], (1, 70, 70)), reference.gram_matrix(x.double(), "none")
        for matrix in (ours, exact):
            matrix[0, 40, 40] = 0  # too large for fp32: truncated, it may be the largest number or infinite
        assert torch.equal(ours.isnan(), exact.isnan())
        assert torch.equal(ours.isinf(), exact.isinf())
        assert torch.equal(ours[exact.isinf()].double(), exact[exact.isinf()])

    return Launch("gram", "gram", arguments), check


def fma_sums(x: Tensor) -> Tensor:
    """X X^T of one sample (C, P) as fused multiply-adds in fp32 make it, pixel by pixel: -> (C, C)."""
    pixels = x.T.double().numpy()
    sums = np.zeros((x.shape[0], x.shape[0]), np.float32)
    for products in pixels[:, :, None] * pixels[:, None, :]:
        sums = (sums + products).astype(np.float32)
    return torch.from_numpy(sums)


def gram_of_long_sums(dtype: torch.dtype, layout: str, pixels: int) -> tuple[Launch, Check]:
    """Numbers as after a ReLU, where sums only grow, in one piece of many pixels."""
    x = LAYOUTS[layout](random_map((1, 4, 1, pixels), dtype, "cpu").abs())
    arguments = {"element": element(dtype), "maps": [_argument(x, layout)], "scales": [1.0], "cut": "whole"}

    def check(outputs: Outputs) -> None:
        exact = reference.gram_matrix(x.double(), "none")
        assert_accurate(from_numpy(outputs[0], (1, 4, 4)), fma_sums(x[0, :, 0])[None], exact)

    return Launch("gram", "gram", arguments, orders=1), check


def style(
    dtype: torch.dtype, layout: str, distance: str, shapes: list[Shape], target_batch: int
) -> tuple[Launch, Check]:
    maps, wide, parameter = _maps(dtype, layout, shapes), accumulator(dtype), DISTANCES[distance]
    targets = [random_map((target_batch, x.shape[1], x.shape[1]), wide, "cpu", 9 + i) for i, x in enumerate(maps)]
    # scale, slope scale, value scale, weight of each layer
    factors = [(1 / (x.shape[2] * x.shape[3]), 0.3 + i, 1 / x.shape[1] ** 2, 0.7 + i) for i, x in enumerate(maps)]
    arguments = {
        "element": element(dtype),
        "maps": _arguments(maps, layout),
        "styles": [(memory_of(t), target_batch, *f) for t, f in zip(targets, factors, strict=True)],
        "distance": distance,
        "parameter": parameter,
    }

    def expected(type_: torch.dtype) -> list[Tensor]:
        slopes, values = [], []
        for x, target, (scale, slope_scale, value_scale, _) in zip(maps, targets, factors, strict=True):
            error = (reference.gram_matrix(x.to(type_), "none") * scale - target.to(type_)).requires_grad_()
            sums = reference.distance_map(error, distance, parameter).flatten(1).sum(1)
            (slope,) = torch.autograd.grad(sums.sum(), error)
            slopes.append(slope_scale * (slope + slope.mT))
            values.append(value_scale * sums.detach())
        loss = sum(f[3] * value for f, value in zip(factors, values, strict=True))
        return [*slopes, torch.stack(values).flatten(), loss]

    def check(outputs: Outputs) -> None:
        for output, naive, exact in zip(outputs, expected(wide), expected(torch.float64), strict=True):
            assert_accurate(from_numpy(output, tuple(exact.shape)), naive, exact)

    return Launch("gram", "style", arguments), check


def symmetrise(dtype: torch.dtype, batch: int, channels: int) -> tuple[Launch, Check]:
    wide, scale = accumulator(dtype), 0.3
    slopes = random_map((batch, channels, channels), wide, "cpu", 1)
    arguments = {
        "element": element(dtype),
        "batch": batch,
        "channels": channels,
        "slopes": memory_of(slopes),
        "scale": scale,
    }

    def check(outputs: Outputs) -> None:
        exact = scale * (slopes.double() + slopes.double().mT)
        assert_accurate(from_numpy(outputs[0], tuple(slopes.shape)), scale * (slopes + slopes.mT), exact)

    return Launch("gram", "symmetrise", arguments), check


def gram_gradient(
    dtype: torch.dtype, layout: str, shapes: list[Shape], upstream: bool, others: Collection[int] = ()
) -> tuple[Launch, Check]:
    """`others`: the layers that have a gradient already, to which theirs is added."""
    wide = accumulator(dtype)
    # With an upstream factor that makes up for it, S is so small that fp16 could not hold it.
    tiny = 1e-7 if upstream else 1.0
    maps = _maps(dtype, layout, shapes)
    # dx in the same order as x, but sliced where x is dense and dense where it is sliced: their strides differ.
    layouts = [_layout(layout, i) for i in range(len(maps))]
    dx_layouts = [one.removeprefix("sliced ") if one.startswith("sliced") else f"sliced {one}" for one in layouts]
    outs = [
        LAYOUTS[one](torch.full(tuple(x.shape), OUTSIDE, dtype=dtype)) for one, x in zip(dx_layouts, maps, strict=True)
    ]
    halves = [random_map((x.shape[0], x.shape[1], x.shape[1]), wide, "cpu", 5 + i) for i, x in enumerate(maps)]
    slopes = [tiny * (half + half.mT) / half.shape[1] for half in halves]
    grad = random_map((maps[0].shape[0],), wide, "cpu", 3) / tiny if upstream else None
    added = {i: LAYOUTS[layouts[i]](random_map(tuple(maps[i].shape), dtype, "cpu", 20 + i)) for i in others}

    def layer(i: int) -> tuple:
        return (
            _argument(maps[i], layouts[i]),
            memory_of(slopes[i]),
            map_numbers(outs[i], layouts[i]),
            memory_of(outs[i]),
            outs[i].storage_offset(),
            _argument(added[i], layouts[i]) if i in added else None,
        )

    arguments = {
        "element": element(dtype),
        "layers": [layer(i) for i in range(len(maps))],
        "grad": None if grad is None else memory_of(grad),
    }

    def expected(i: int, type_: torch.dtype, matrix: Tensor) -> Tensor:
        x = maps[i].to(type_)
        result = (matrix.to(type_) @ x.flatten(2)).reshape(x.shape)
        result = result if grad is None else result * grad.to(type_).reshape(-1, 1, 1, 1)
        return result + added[i].to(type_) if i in added else result

    def check(outputs: Outputs) -> None:
        for i, out in enumerate(outs):
            exact = expected(i, torch.float64, slopes[i])
            # The naive run multiplies two maps of one dtype: S is rounded to it, row by row to its own scale.
            largest = slopes[i].abs().amax(2, keepdim=True).clamp_min(1e-300)
            rounded = (slopes[i] / largest).to(dtype).to(wide) * largest
            naive = expected(i, wide, rounded)
            assert_accurate(like_view(outputs[i], out), naive.to(dtype), exact)
            assert_untouched_outside(outputs[i], out)

    return Launch("gram", "gram_gradient", arguments), check
