"""The launches of LPIPS; see cases.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from maps import assert_accurate, random_map
from torch import Tensor

from host.cases import Check
from host.memory import OUTSIDE, accumulator, assert_untouched_outside, element, from_numpy, like_view, memory_of
from host.worker import Launch, Outputs
from perceptual_ops import reference

# (C, H, W, N of the targets, elements between the samples, elements before the first)
Layer = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class Wanted:
    """What a launch computes.

    Attributes:
        by: Gradients by "x", "y" or "xy".
        values: Whether loss and layers' values.
        maps: Whether the distance of each pixel, or gradients for an upstream number of each pixel.
    """

    by: str
    values: bool
    maps: bool = False


# By the first word of their cases.
WANTED = {
    "lpips": [Wanted("", True)],
    "lpips_gradient": [Wanted(by, False) for by in ("x", "y", "xy")],
    "lpips_with_gradient": [Wanted(by, True) for by in ("x", "y", "xy")],
    "lpips_map": [Wanted("", False, maps=True)],
    "lpips_map_gradient": [Wanted(by, False, maps=True) for by in ("x", "y", "xy")],
}


def _room(shape: tuple[int, ...], layout: str, gap: int, before: int, dtype: torch.dtype) -> Tensor:
    """Dense samples (N, C, H, W), `gap` elements apart, inside of memory that is not to be touched."""
    batch, channels, height, width = shape
    size = channels * height * width
    memory = torch.full((before + batch * (size + gap),), OUTSIDE, dtype=dtype)
    samples = memory[before:].view(batch, size + gap)[:, :size]
    if layout == "nhwc":
        return samples.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
    return samples.unflatten(1, shape[1:])


def _maps(dtype: torch.dtype, layout: str, batch: int, layers: list[Layer]) -> tuple[list[Tensor], list[Tensor]]:
    """x and y of each layer; y always lies in one piece. The first pixel of x and the last of y have no features."""
    xs, ys = [], []
    for number, (channels, height, width, targets, gap, before) in enumerate(layers):
        shape = (channels, height, width)
        x, y = (
            _room((count, *shape), layout, space, before, dtype).copy_(random_map((count, *shape), dtype, "cpu", seed))
            for count, space, seed in ((batch, gap, 2 * number), (targets, 0, 2 * number + 1))
        )
        x[0, :, 0, 0], y[-1, :, -1, -1] = 0, 0
        xs.append(x)
        ys.append(y)
    return xs, ys


def _weights(dtype: torch.dtype, layers: list[Layer], before: int) -> list[Tensor]:
    """(C) of each layer, `before` elements into their memory."""
    wide = accumulator(dtype)
    return [random_map((before + layer[0],), wide, "cpu", 100 + i).abs()[before:] for i, layer in enumerate(layers)]


def lpips(
    dtype: torch.dtype,
    wanted: Wanted,
    layout: str,
    batch: int,
    layers: list[Layer],
    eps: float,
    inside: bool,
    upstream: bool,
    before_weights: int = 0,
) -> tuple[Launch, Check]:
    """`upstream`: whether there is one number a sample."""
    wide = accumulator(dtype)
    xs, ys = _maps(dtype, layout, batch, layers)
    weights = _weights(dtype, layers, before_weights)
    gradients = [
        [_room((batch, *layer[:3]), layout, 0, layer[-1], dtype) for layer in layers if side in wanted.by]
        for side in "xy"
    ]
    before_dx = [layer[-1] for layer in layers]
    upstreams = [random_map((batch, 1, *x.shape[2:]), wide, "cpu", 3 + i) for i, x in enumerate(xs)]
    grad = random_map((batch,), wide, "cpu", 3) if upstream else None
    by_pixel = wanted.maps and wanted.by != ""
    arguments = {
        "element": element(dtype),
        "batch": batch,
        "layout": layout,
        "numbers": [
            (x.shape[1], x[0, 0].numel(), x.stride(0), 0 if y.shape[0] == 1 else y.stride(0),
             x.storage_offset(), y.storage_offset(), before, before_weights)
            for x, y, before in zip(xs, ys, before_dx, strict=True)
        ],
        **{name: [memory_of(x) for x in list_] for name, list_ in
           (("x", xs), ("y", ys), ("weights", weights), ("dx", gradients[0]), ("dy", gradients[1]))},
        "maps": wanted.maps and not by_pixel,
        "map_grads": [memory_of(x) for x in upstreams] if by_pixel else [],
        "eps": eps,
        "eps_inside": inside,
        "wants_values": wanted.values,
        "grad": None if grad is None else memory_of(grad),
    }  # fmt: skip

    def expected(type_: torch.dtype) -> list[Tensor]:
        """All that the launch gives, in its order."""
        pairs = [
            [x.to(type_).requires_grad_() for x in xs],
            [y.to(type_).expand(batch, -1, -1, -1).clone().requires_grad_() for y in ys],
        ]
        found = reference.lpips_maps(*pairs, [weight.to(type_) for weight in weights], eps, inside)
        loss, values = reference.weighted_sum([pixels.mean((1, 2, 3)) for pixels in found], [1.0] * len(found))
        given = torch.ones(batch, dtype=type_) if grad is None else grad.to(type_)
        parts: list[Tensor] = []
        for side, leaves in zip("xy", pairs, strict=True):
            if side in wanted.by:
                roots, grads = (found, [g.to(type_) for g in upstreams]) if by_pixel else ([loss], [given])
                parts += torch.autograd.grad(roots, leaves, grads, retain_graph=True)
        if wanted.maps and not by_pixel:
            parts += found
        if wanted.values:
            parts += [values, loss]
        return [part.detach() for part in parts]

    def check(outputs: Outputs) -> None:
        naive, exact, views = expected(wide), expected(torch.float64), [*gradients[0], *gradients[1]]
        assert len(outputs) == len(exact)
        for number, (mine, rounded, truth) in enumerate(zip(outputs, naive, exact, strict=True)):
            if number < len(views):
                assert_accurate(like_view(mine, views[number]), rounded.to(dtype), truth)
                assert_untouched_outside(mine, views[number])
            else:
                assert_accurate(from_numpy(mine, tuple(truth.shape)), rounded, truth)

    return Launch("lpips", "lpips", arguments), check


def lpips_of_equals(dtype: torch.dtype, layout: str) -> tuple[Launch, Check]:
    """Equal maps lie nowhere apart and have no gradient, to the bit, also where their lengths are close to nothing."""
    layers: list[Layer] = [(64, 3, 4, 2, 0, 0), (5, 4, 4, 2, 0, 0)]
    launch, _ = lpips(dtype, Wanted("xy", True), layout, 2, layers, 1e-10, False, upstream=False)
    for x, y in zip(launch.arguments["x"], launch.arguments["y"], strict=True):
        torch.from_numpy(x).view(dtype)[: x.size // 2] *= 2.0**-24
        y[:] = x

    def check(outputs: Outputs) -> None:
        assert all((torch.from_numpy(part).view(dtype) == 0).all() for part in outputs[:4])
        assert all((torch.from_numpy(part) == 0).all() for part in outputs[4:])

    return launch, check


def lpips_of_nan(dtype: torch.dtype, layout: str, by: str) -> tuple[Launch, Check]:
    """One element of one pixel of the last sample: that pixel's gradients are NaN, and all others numbers."""
    layers: list[Layer] = [(64, 3, 4, 2, 0, 0), (6, 4, 4, 1, 0, 0)]
    launch, _ = lpips(dtype, Wanted(by, True), layout, 2, layers, 0.1, True, upstream=True)
    spoilt = torch.from_numpy(launch.arguments["x"][1]).view(dtype)
    spoilt[-1] = torch.nan  # the last channel of the last pixel in either layout

    def check(outputs: Outputs) -> None:
        *gradients, values, loss = outputs
        for number, mine in enumerate(gradients):
            channels, height, width = layers[number % 2][:3]
            like = _room((2, channels, height, width), layout, 0, 0, dtype)
            nan = like_view(mine, like).isnan()
            assert nan[-1, :, -1, -1].all() == (number % 2 == 1)
            assert nan.sum() == (channels if number % 2 else 0)
        assert torch.from_numpy(values).isnan().tolist() == [False, False, False, True]
        assert torch.from_numpy(loss).isnan().tolist() == [False, True]

    return launch, check
