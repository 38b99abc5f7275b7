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


def _feature_pair(dtype: torch.dtype, batch: int, size: int, target_batch: int, gap: int) -> tuple[Tensor, Tensor]:
    """x (N, E) with `gap` elements between samples, and y (N or 1, E)."""
    x = torch.full((batch, size + gap), OUTSIDE, dtype=dtype)[:, :size]
    return x.copy_(random_map((batch, size), dtype, "cpu", 1)), random_map((target_batch, size), dtype, "cpu", 2)


def feature_loss(
    dtype: torch.dtype, distance: str, batch: int, size: int, target_batch: int, gap: int, first_layer: bool
) -> tuple[Launch, Check]:
    wide, value_scale, weight, parameter = accumulator(dtype), 1 / size, 0.7, DISTANCES[distance]
    x, y = _feature_pair(dtype, batch, size, target_batch, gap)
    loss = random_map((batch,), wide, "cpu", 3)
    arguments = {
        "element": element(dtype),
        "batch": batch,
        "size": size,
        "stride_x": x.stride(0),
        "stride_y": 0 if target_batch == 1 else size,
        "x": memory_of(x),
        "y": memory_of(y),
        "distance": distance,
        "parameter": parameter,
        "value_scale": value_scale,
        "weight": weight,
        "first_layer": first_layer,
        "loss": memory_of(loss),
    }

    def expected(type_: torch.dtype) -> tuple[Tensor, Tensor]:
        values = value_scale * reference.distance_map(x.to(type_) - y.to(type_), distance, parameter).sum(1)
        return values, (0 if first_layer else loss.to(type_)) + weight * values

    def check(outputs: Outputs) -> None:
        for mine, naive, exact in zip(outputs, expected(wide), expected(torch.float64), strict=True):
            assert_accurate(torch.from_numpy(mine), naive, exact)

    return Launch("feature_loss", "feature_loss", arguments), check


def feature_loss_gradient(
    dtype: torch.dtype, distance: str, batch: int, size: int, target_batch: int, gap: int
) -> tuple[Launch, Check]:
    wide, slope_scale, parameter = accumulator(dtype), 0.3, DISTANCES[distance]
    x, y = _feature_pair(dtype, batch, size, target_batch, gap)
    grad = random_map((batch,), wide, "cpu", 3)
    dx = torch.full((batch, size), OUTSIDE, dtype=dtype)
    arguments = {
        "element": element(dtype),
        "batch": batch,
        "size": size,
        "stride_x": x.stride(0),
        "stride_y": 0 if target_batch == 1 else size,
        "x": memory_of(x),
        "y": memory_of(y),
        "distance": distance,
        "parameter": parameter,
        "slope_scale": slope_scale,
        "grad": memory_of(grad),
        "dx": memory_of(dx),
    }

    def expected(type_: torch.dtype) -> Tensor:
        error = (x.to(type_) - y.to(type_)).requires_grad_()
        sums = reference.distance_map(error, distance, parameter).sum(1)
        (slope,) = torch.autograd.grad(sums, error, grad.to(type_))
        return slope_scale * slope

    def check(outputs: Outputs) -> None:
        assert_accurate(like_view(outputs[0], dx), expected(wide).to(dtype), expected(torch.float64))

    return Launch("feature_loss", "feature_loss_gradient", arguments), check


def image_rows(layout: str, shape: tuple[int, ...], gap: int = 0) -> tuple[int, ...]:
    """The kernels' ImageRows of images (N, C, H, W), `gap` samples apart."""
    batch, channels, height, width = shape
    stride = (1 + gap) * channels * height * width
    if layout == "nhwc":
        return (batch, 1, height, width * channels, channels, stride)
    return (batch, channels, height, width, 1, stride)


def _image(dtype: torch.dtype, layout: str, shape: tuple[int, ...], gap: int) -> tuple[Tensor, tuple[int, ...]]:
    """Images (N, C, H, W), samples dense and `gap` samples apart, and the kernels' ImageRows of them."""
    batch = shape[0]
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    images = random_map((batch * (1 + gap), *shape[1:]), dtype, "cpu", 1).contiguous(memory_format=memory_format)
    return images[:: 1 + gap], image_rows(layout, shape, gap)


def total_variation(
    dtype: torch.dtype, kind: str, layout: str, shape: tuple[int, ...], gap: int
) -> tuple[Launch, Check]:
    x, rows = _image(dtype, layout, shape, gap)
    arguments = {"element": element(dtype), "rows": rows, "kind": kind, "x": memory_of(x)}

    def check(outputs: Outputs) -> None:
        naive = reference.variation(x.to(accumulator(dtype)), kind)
        assert_accurate(torch.from_numpy(outputs[0]), naive, reference.variation(x.double(), kind))

    return Launch("total_variation", "total_variation", arguments), check


def total_variation_gradient(
    dtype: torch.dtype, kind: str, layout: str, shape: tuple[int, ...], gap: int
) -> tuple[Launch, Check]:
    x, rows = _image(dtype, layout, shape, gap)
    dx, _ = _image(dtype, layout, shape, 0)
    dx.fill_(OUTSIDE)
    grad = random_map((shape[0],), accumulator(dtype), "cpu", 3)
    arguments = {
        "element": element(dtype),
        "rows": rows,
        "kind": kind,
        "x": memory_of(x),
        "grad": memory_of(grad),
        "dx": memory_of(dx),
    }

    def expected(type_: torch.dtype) -> Tensor:
        image = x.to(type_).requires_grad_()
        return torch.autograd.grad(reference.variation(image, kind), image, grad.to(type_))[0]

    def check(outputs: Outputs) -> None:
        naive = expected(accumulator(dtype)).to(dtype)
        assert_accurate(like_view(outputs[0], dx), naive, expected(torch.float64))

    return Launch("total_variation", "total_variation_gradient", arguments), check
