"""What large pictures cost the recipes: a tile, and a few pictures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.memory import allocated_peak
from perceptual_ops import LPIPS
from perceptual_ops.images import to_picture
from perceptual_ops.recipes import StyleNet, SuperResolutionNet, style_transfer_loss, stylize
from perceptual_ops.recipes.models import Model

pytestmark = pytest.mark.usefixtures("library")

SIDE = 64
FEW, MANY = 3, 6  # tiles of a picture
ROUND = 8192  # bytes: a few numbers of each tile
PICTURE = 4 * 3 * SIDE * SIDE * (MANY - FEW)  # bytes of what the large picture has more


def picture(tiles: int) -> Tensor:
    return torch.rand((1, 3, SIDE * tiles, SIDE), generator=torch.Generator().manual_seed(0))


def growth(call: Callable[[Tensor], object]) -> float:
    """By how much the peak of a large picture is above that of a small one, in pictures."""
    peaks = []
    for tiles in (FEW, FEW, MANY):  # once to warm up
        image = picture(tiles)
        peaks.append(allocated_peak(lambda image=image: call(image)))
    assert peaks[1] > 0
    return (peaks[2] - peaks[1] - ROUND) / PICTURE


@pytest.mark.parametrize(("network", "scale"), [(StyleNet(8, 1), 1), (SuperResolutionNet(2, 8, 1), 2)])
def test_models(network, scale):
    """The result, where a whole takes every channel of the network's maps."""
    model = Model("style", scale, 1, network.eval())
    assert growth(lambda image: model(image, SIDE)) <= 0.5 + scale**2
    assert growth(model) > 6 * scale**2


def test_maps_of_lpips():
    """Three of one channel, in place of all layers' maps of both pictures."""
    loss = LPIPS("alexnet", weights="random", spatial=True, tile_size=SIDE)
    whole = LPIPS("alexnet", weights="random", spatial=True)
    with torch.no_grad():
        assert growth(lambda image: loss(image, image)) <= 1.25
        assert growth(lambda image: whole(image, image)) > 10


@pytest.mark.parametrize(("optimizer", "most"), [("adam", 6.5), ("lbfgs", 8.5 + 2 * 3)])
def test_stylize(monkeypatch, optimizer, most):
    monkeypatch.setattr("perceptual_ops.recipes.optimization.MAX_STEPS", 3)
    style = picture(1)

    def paint(image: Tensor, tile_size: int | None) -> None:
        layers = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1", "relu2_1"]}
        loss = style_transfer_loss(image, style, network="vgg11", weights="random", tile_size=tile_size, **layers)
        stylize(image, style, loss=loss, steps=6, optimizer=optimizer)

    assert growth(lambda image: paint(image, SIDE)) <= most
    assert growth(lambda image: paint(image, None)) > 5 * most


def test_pictures_are_written_in_bands(monkeypatch):
    """Not as several copies in fp32."""
    monkeypatch.setattr("perceptual_ops.images.BAND", SIDE)
    assert growth(to_picture) <= 0.5
