"""The launches that the host execution tests, and what each must give, by the policy of tests/maps.py.

Inputs are exact in their dtype and sums run in the accumulation type. So the naive run that bounds the error works in
the accumulation type too: for fp16 and bfloat16 that is much tighter than a naive run in the maps' own dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from maps import LAYOUTS, assert_accurate, random_map
from torch import Tensor

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

Check = Callable[[Outputs], None]

# Distances with their parameter.
DISTANCES = {"mse": 0.0, "l1": 0.0, "charbonnier": 0.01, "huber": 0.5}


@dataclass(frozen=True)
class Case:
    """One launch and its check.

    Attributes:
        name: Name for pytest; the first word is the launcher.
        make: Makes the inputs: -> (launch, check of its outputs).
    """

    name: str
    make: Callable[[], tuple[Launch, Check]]


def gram(dtype: torch.dtype, layout: str, shape: tuple[int, ...]) -> tuple[Launch, Check]:
    x = LAYOUTS[layout](random_map(shape, dtype, "cpu"))
    scale = 1 / (shape[1] * shape[2] * shape[3])
    arguments = {
        "element": element(dtype),
        "map": map_numbers(x, layout),
        "x": memory_of(x),
        "offset": x.storage_offset(),
        "scale": scale,
    }

    def check(outputs: Outputs) -> None:
        ours = from_numpy(outputs[0], (shape[0], shape[1], shape[1]))
        naive = reference.gram_matrix(x.to(accumulator(dtype)), "none") * scale
        assert_accurate(ours, naive, reference.gram_matrix(x.double(), "none") * scale)
        assert torch.equal(ours, ours.mT)

    return Launch("gram", "gram", arguments), check


def style_distance(
    dtype: torch.dtype, distance: str, batch: int, channels: int, target_batch: int, first_layer: bool
) -> tuple[Launch, Check]:
    wide = accumulator(dtype)
    grams = random_map((batch, channels, channels), wide, "cpu", 1)
    targets = random_map((target_batch, channels, channels), wide, "cpu", 2)
    loss = random_map((batch,), wide, "cpu", 3)
    value_scale, slope_scale, weight, parameter = 1 / channels**2, 0.3, 0.7, DISTANCES[distance]
    arguments = {
        "element": element(dtype),
        "batch": batch,
        "channels": channels,
        "target_batch": target_batch,
        "gram": memory_of(grams),
        "targets": memory_of(targets),
        "distance": distance,
        "parameter": parameter,
        "value_scale": value_scale,
        "slope_scale": slope_scale,
        "weight": weight,
        "first_layer": first_layer,
        "loss": memory_of(loss),
    }

    def expected(type_: torch.dtype) -> tuple[Tensor, ...]:
        error = (grams.to(type_) - targets.to(type_)).requires_grad_()
        sums = reference.distance_map(error, distance, parameter).flatten(1).sum(1)
        (slope,) = torch.autograd.grad(sums.sum(), error)
        values = value_scale * sums.detach()
        return slope_scale * (slope + slope.mT), values, (0 if first_layer else loss.to(type_)) + weight * values

    def check(outputs: Outputs) -> None:
        ours = (from_numpy(outputs[0], tuple(grams.shape)), *map(torch.from_numpy, outputs[1:]))
        for mine, naive, exact in zip(ours, expected(wide), expected(torch.float64), strict=True):
            assert_accurate(mine, naive, exact)

    return Launch("gram", "style_distance", arguments), check


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


def gram_gradient(dtype: torch.dtype, layout: str, shape: tuple[int, ...], upstream: bool) -> tuple[Launch, Check]:
    wide = accumulator(dtype)
    x = LAYOUTS[layout](random_map(shape, dtype, "cpu", 1))
    # dx in the same order as x, but sliced where x is dense and dense where it is sliced: their strides differ.
    dx_layout = layout.removeprefix("sliced ") if layout.startswith("sliced") else f"sliced {layout}"
    dx = LAYOUTS[dx_layout](torch.full(shape, OUTSIDE, dtype=dtype))
    symmetric = random_map((shape[0], shape[1], shape[1]), wide, "cpu", 2) / shape[1]
    grad = random_map((shape[0],), wide, "cpu", 3) if upstream else None
    arguments = {
        "element": element(dtype),
        "map": map_numbers(x, layout),
        "symmetric": memory_of(symmetric),
        "grad": None if grad is None else memory_of(grad),
        "x": memory_of(x),
        "offset": x.storage_offset(),
        "dx_map": map_numbers(dx, layout),
        "dx": memory_of(dx),
        "dx_offset": dx.storage_offset(),
    }

    def expected(type_: torch.dtype) -> Tensor:
        product = (symmetric.to(type_) @ x.to(type_).flatten(2)).reshape(shape)
        return product if grad is None else product * grad.to(type_).reshape(-1, 1, 1, 1)

    def check(outputs: Outputs) -> None:
        assert_accurate(like_view(outputs[0], dx), expected(wide).to(dtype), expected(torch.float64))
        assert_untouched_outside(outputs[0], dx)

    return Launch("gram", "gram_gradient", arguments), check
