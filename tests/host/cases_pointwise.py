"""The launches of the feature loss and the total variation; see cases.py."""

from __future__ import annotations

import torch
from maps import assert_accurate, random_map
from torch import Tensor

from host.cases import DISTANCES, Check
from host.memory import OUTSIDE, accumulator, assert_untouched_outside, element, from_numpy, like_view, memory_of
from host.worker import Launch, Outputs
from perceptual_ops import reference

# What a launch computes, and what its cases are called.
WANTED = {"value": "", "gradient": "_gradient", "both": "_with_gradient"}

# (E, N of the targets, elements between the samples, elements before the first)
Layer = tuple[int, int, int, int]


def _samples(batch: int, size: int, gap: int, before: int, dtype: torch.dtype) -> Tensor:
    """Room for (N, E) inside of memory that is not to be touched."""
    memory = torch.full((before + batch * (size + gap),), OUTSIDE, dtype=dtype)
    return memory[before:].reshape(batch, size + gap)[:, :size]


def _feature_maps(dtype: torch.dtype, batch: int, layers: list[Layer]) -> tuple[list[Tensor], list[Tensor]]:
    """x (N, E) and y (N or 1, E) of each layer; y always lies in one piece."""
    xs, ys = [], []
    for number, (size, targets, gap, before) in enumerate(layers):
        shape = (batch, size)
        xs.append(_samples(batch, size, gap, before, dtype).copy_(random_map(shape, dtype, "cpu", 2 * number)))
        y = _samples(targets, size, 0, before, dtype)
        ys.append(y.copy_(random_map((targets, size), dtype, "cpu", 2 * number + 1)))
    return xs, ys


def feature_loss(
    dtype: torch.dtype, distance: str, wanted: str, batch: int, layers: list[Layer], upstream: bool
) -> tuple[Launch, Check]:
    xs, ys = _feature_maps(dtype, batch, layers)
    dxs = [_samples(batch, size, 0, before, dtype) for size, _, _, before in layers]
    grad = random_map((batch,), accumulator(dtype), "cpu", 3) if upstream else None
    weights = [0.5 + 0.25 * (number % 5) for number in range(len(layers))]
    arguments = {
        "element": element(dtype),
        "wanted": wanted,
        "batch": batch,
        "numbers": [
            (x.shape[1], x.stride(0), 0 if y.shape[0] == 1 else y.stride(0), *(part.storage_offset() for part in parts))
            for parts in zip(xs, ys, dxs, strict=True)
            for x, y, _ in [parts]
        ],
        "x": [memory_of(x) for x in xs],
        "y": [memory_of(y) for y in ys],
        "dx": [memory_of(dx) for dx in dxs],
        "scales": [1 / x.shape[1] for x in xs],
        "weights": weights,
        "distance": distance,
        "parameter": DISTANCES[distance],
        "grad": None if grad is None else memory_of(grad),
    }

    def expected(type_: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor]:
        leaves = [x.to(type_).requires_grad_() for x in xs]
        errors = [x - y.to(type_) for x, y in zip(leaves, ys, strict=True)]
        maps = [reference.distance_map(error, distance, DISTANCES[distance]) for error in errors]
        values = torch.stack([values.sum(1) / values.shape[1] for values in maps])
        loss = (values * torch.tensor(weights, dtype=type_)[:, None]).sum(0)
        upstream_grad = torch.ones(batch, dtype=type_) if grad is None else grad.to(type_)
        return list(torch.autograd.grad(loss, leaves, upstream_grad)), values.detach(), loss.detach()

    def check(outputs: Outputs) -> None:
        naive, exact = expected(accumulator(dtype)), expected(torch.float64)
        if wanted != "value":
            for mine, dx, rounded, truth in zip(outputs, dxs, naive[0], exact[0], strict=False):
                assert_accurate(like_view(mine, dx), rounded.to(dtype), truth)
                assert_untouched_outside(mine, dx)
        if wanted != "gradient":
            values, loss = outputs[-2:]
            assert_accurate(from_numpy(values, (len(layers), batch)), naive[1], exact[1])
            assert_accurate(torch.from_numpy(loss), naive[2], exact[2])

    return Launch("feature_loss", "feature_loss", arguments), check


def feature_loss_of_nan(dtype: torch.dtype, distance: str) -> tuple[Launch, Check]:
    """One element of one sample: the others keep their loss."""
    launch, _ = feature_loss(dtype, distance, "value", 2, [(77, 2, 0, 0), (640, 1, 0, 0)], upstream=False)
    spoilt = torch.from_numpy(launch.arguments["x"][1]).view(dtype)
    spoilt[640 + 639] = torch.nan

    def check(outputs: Outputs) -> None:
        values, loss = outputs
        assert torch.from_numpy(values).isnan().tolist() == [False, False, False, True]
        assert torch.from_numpy(loss).isnan().tolist() == [False, True]

    return launch, check


def _image(
    dtype: torch.dtype, layout: str, shape: tuple[int, ...], gap: int, before: int
) -> tuple[Tensor, tuple[int, ...]]:
    """Images (N, C, H, W), samples dense and `gap` elements apart, and the kernels' ImageRows of them."""
    batch, channels, height, width = shape
    size = channels * height * width
    samples = _samples(batch, size, gap, before, dtype)
    if layout == "nhwc":
        x = samples.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
        return x, (batch, 1, height, width * channels, channels, size + gap)
    return samples.unflatten(1, shape[1:]), (batch, channels, height, width, 1, size + gap)


def total_variation(
    dtype: torch.dtype,
    kind: str,
    wanted: str,
    layout: str,
    shape: tuple[int, ...],
    gap: int,
    before: int,
    upstream: bool,
) -> tuple[Launch, Check]:
    x, rows = _image(dtype, layout, shape, gap, before)
    x.copy_(random_map(shape, dtype, "cpu", 1))
    dx, _ = _image(dtype, layout, shape, 0, before)
    grad = random_map((shape[0],), accumulator(dtype), "cpu", 3) if upstream else None
    arguments = {
        "element": element(dtype),
        "wanted": wanted,
        "rows": rows,
        "kind": kind,
        "x": memory_of(x),
        "before_x": x.storage_offset(),
        "grad": None if grad is None else memory_of(grad),
        "dx": memory_of(dx),
        "before_dx": dx.storage_offset(),
    }

    def expected(type_: torch.dtype) -> tuple[Tensor, Tensor]:
        image = x.to(type_).requires_grad_()
        values = reference.variation(image, kind)
        upstream_grad = torch.ones_like(values) if grad is None else grad.to(type_)
        return torch.autograd.grad(values, image, upstream_grad)[0], values.detach()

    def check(outputs: Outputs) -> None:
        naive, exact = expected(accumulator(dtype)), expected(torch.float64)
        if wanted != "value":
            assert_accurate(like_view(outputs[0], dx), naive[0].to(dtype), exact[0])
            assert_untouched_outside(outputs[0], dx)
        if wanted != "gradient":
            assert_accurate(torch.from_numpy(outputs[-1]), naive[1], exact[1])

    return Launch("total_variation", "total_variation", arguments), check


def total_variation_of(number: float, dtype: torch.dtype, kind: str) -> tuple[Launch, Check]:
    """NaN or an infinity in the last corner of one image: its value is that, the other's a number."""
    launch, _ = total_variation(dtype, kind, "value", "nchw", (2, 1, 6, 16), 0, 0, upstream=False)
    torch.from_numpy(launch.arguments["x"]).view(dtype)[6 * 16 - 1] = number

    def check(outputs: Outputs) -> None:
        spoilt, sound = outputs[0].tolist()
        assert str(spoilt) == str(number)
        assert torch.tensor(sound).isfinite()

    return launch, check
