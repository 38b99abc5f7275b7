"""Tiles take the memory of one, however large the image: what grows is the gradient that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import perceptual_ops as po
from bench.memory import allocated_peak
from perceptual_ops.engine import tiled_loss
from perceptual_ops.engine.metric_op import MetricSettings, metric_loss
from perceptual_ops.engine.pair import IMAGE
from perceptual_ops.engine.trunk import Trunk

pytestmark = pytest.mark.usefixtures("library")

SIDE, CHANNELS = 32, 8
FEW, MANY = 4, 12  # tiles of an image
ROUND = 4096  # bytes: a number of each tile
LAYERS = ("1", "4")


@cache
def tiny() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU())


def perceptual() -> po.PerceptualLoss:
    return po.PerceptualLoss(
        tiny(), content_layers=LAYERS[1:], style_layers=LAYERS, tv_weight=0.1, mean=[0.0], std=[1.0], tile_size=SIDE
    )


def image(tiles: int, seed: int = 0) -> Tensor:
    return torch.rand((1, 3, SIDE * tiles, SIDE), generator=torch.Generator().manual_seed(seed))


def loss_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The perceptual loss, or LPIPS or DISTS over the same network."""
    loss = perceptual()
    if name == "perceptual":
        loss.set_style(image(1, seed=2))
        return loss
    is_lpips = name == "lpips"
    layers = LAYERS if is_lpips else (IMAGE, *LAYERS)
    numbers = (1 if is_lpips else 2) * [torch.ones(3 if layer == IMAGE else CHANNELS) for layer in layers]
    settings = MetricSettings(layers, name, eps=1e-10 if is_lpips else 0.0)
    return lambda x, y: metric_loss(x, y, numbers, loss.trunk_input(x), settings).sum()


@pytest.fixture(autouse=True)
def bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of total variation, no larger than a tile."""
    monkeypatch.setattr(tiled_loss, "BAND", SIDE)


def growth(call: Callable[[Tensor, Tensor], object], wanted: bool = False) -> int:
    """By how much the peak of a large image is above that of a small one."""
    peaks = []
    for tiles in (FEW, FEW, MANY):  # once to warm up
        pair = image(tiles).requires_grad_(wanted), image(tiles, seed=1)
        peaks.append(allocated_peak(lambda pair=pair: call(*pair)))
    assert peaks[1] > 0
    return peaks[2] - peaks[1]


LOSSES = pytest.mark.parametrize("name", ["perceptual", "lpips", "dists"])
GRADIENT = 4 * (image(MANY).numel() - image(FEW).numel())  # bytes


@LOSSES
def test_values(name: str) -> None:
    assert growth(loss_of(name)) <= ROUND


@LOSSES
def test_gradients(name: str) -> None:
    """Made in the forward, and multiplied by what comes from above in the backward."""
    loss = loss_of(name)
    assert growth(lambda x, y: torch.autograd.grad(loss(x, y), x), wanted=True) <= 2 * GRADIENT + ROUND


def test_gradients_that_are_written_elsewhere() -> None:
    loss = loss_of("perceptual")
    out = {tiles: torch.empty(image(tiles).shape) for tiles in (FEW, MANY)}
    assert growth(lambda x, y: po.gradient_of(loss, x, y, out=out[x.shape[2] // SIDE])) <= ROUND


def test_the_last_tile_of_the_first_pass_is_not_run_again() -> None:
    loss = po.PerceptualLoss(tiny(), content_layers=None, style_layers=LAYERS, mean=[0.0], std=[1.0], tile_size=SIDE)
    loss.set_style(image(1, seed=2))
    for tiles in (1, FEW):
        with mock.patch.object(Trunk, "forward_together", autospec=True, side_effect=Trunk.forward_together) as run:
            po.gradient_of(loss, image(tiles))
        assert run.call_count == 2 * tiles - 1


def test_styles_of_large_images() -> None:
    loss = perceptual()
    assert growth(lambda style, _: loss.set_style(style)) <= ROUND
