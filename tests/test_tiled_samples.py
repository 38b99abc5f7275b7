"""Tiles through all layers with lists, weighted samples, grey, gradients of the target alone and autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perceptual_ops import PerceptualLoss

SIDE = 64


def images(seed: int, samples: int = 1, size: tuple[int, int] = (67, 99), channels: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand((samples, channels, *size), dtype=torch.float64, generator=draw)


def make(dtype: torch.dtype = torch.float64, **settings: Any) -> PerceptualLoss:
    made = PerceptualLoss("vgg11", weights="random", content_layers=["relu2_1"], reduction="none", **settings)
    return made.to(dtype)


def results(
    tile_size: int | None, *given: Any, loss: PerceptualLoss, wanted: list[Tensor], **call: Any
) -> list[Tensor]:
    """Values, and the gradients by `wanted`."""
    loss.tile_size = tile_size
    value = loss(*given, **call)
    return [value.detach(), *torch.autograd.grad(value.sum(), wanted)]


def check(*given: Any, wanted: list[Tensor], **call: Any) -> list[Tensor]:
    whole, tiled = (results(side, *given, loss=make(), wanted=wanted, **call) for side in (None, SIDE))
    for expected, found in zip(whole, tiled, strict=True):
        scale = expected.abs().max().clamp_min(1e-300)
        torch.testing.assert_close(found / scale, expected / scale, rtol=1e-10, atol=1e-10)
    return tiled


def test_lists_of_which_some_weigh_nothing() -> None:
    sizes = [(67, 99), (70, 98), (67, 99)]
    x, y = ([images(seed + i, size=size) for i, size in enumerate(sizes)] for seed in (0, 10))
    x[0][..., 0] = torch.nan
    leaves = [z.requires_grad_() for z in x]
    value, *by_image = check(x, y, wanted=leaves, sample_weight=[0.0, 2.0, -0.5])
    assert value.isfinite().all() and [bool(gradient.any()) for gradient in by_image] == [False, True, True]
    assert torch.equal(value[0], torch.zeros(()).double())


def test_grey() -> None:
    x = images(0, channels=1).requires_grad_()
    _, by_image = check(x, images(1), wanted=[x])
    assert by_image.shape == x.shape and by_image.any()


def test_a_gradient_of_the_target_alone() -> None:
    target = images(1).requires_grad_()
    _, by_target = check(images(0), target, wanted=[target])
    assert by_target.any()


def test_autocast() -> None:
    """In bf16, which rounds as much by tiles as it does whole."""
    x, y = images(0).float().requires_grad_(), images(1).float()
    exact = results(None, x.double(), y.double(), loss=make(), wanted=[x])
    loss = make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        whole, tiled = (results(side, x, y, loss=loss, wanted=[x]) for side in (None, SIDE))
    for truth, naive, found in zip(exact, whole, tiled, strict=True):
        error, allowed = ((z - truth).norm() / truth.norm() for z in (found, naive))
        assert 1e-5 < error <= 2 * max(allowed, torch.tensor(2.0**-8))
