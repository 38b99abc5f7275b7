"""LPIPS in tiles through all layers, whose first layers go in tiles of their own."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from maps import assert_close_by_scale
from torch import Tensor, nn

from perceptual_ops import PerceptualLoss
from perceptual_ops.engine import batching, tiled_pair
from perceptual_ops.engine.metric_op import MetricSettings, metric_loss
from perceptual_ops.engine.tiles import tiles_of

pytestmark = pytest.mark.usefixtures("library")

CHANNELS, SIDE, SHALLOW = 8, 48, 16
LAYERS = ("1", "4", "7", "10")


def network() -> nn.Sequential:
    """Three poolings; after the second, maps are small enough to be run at once."""
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    for channels in (3, CHANNELS, CHANNELS, CHANNELS):
        blocks += [nn.Conv2d(channels, CHANNELS, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks[:-1])


def results(pair: list[Tensor], tile_size: int | None, dtype: torch.dtype) -> list[Tensor]:
    """The distances, and the gradients of a sum that weighs samples."""
    loss = PerceptualLoss(network(), content_layers=LAYERS, mean=[0.0], std=[1.0], tile_size=tile_size).to(dtype)
    numbers = [torch.linspace(0.5, 1.5, CHANNELS, dtype=dtype) for _ in LAYERS]
    settings = MetricSettings(LAYERS, "lpips", eps=1e-10)
    leaves = [x.to(dtype).requires_grad_() for x in pair]
    found = metric_loss(*leaves, numbers, loss.trunk_input(leaves[0]), settings)
    (found * torch.tensor([2.0, -3.0], dtype=dtype)).sum().backward()
    with torch.no_grad():
        alone = metric_loss(*leaves, numbers, loss.trunk_input(leaves[0]), settings)
    return [found.detach(), alone, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("size", [(101, 150), (48, 99), (97, 64)], ids=str)
def test_value_and_gradients_of_the_whole(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(3)
    pair = [torch.rand((2, 3, *size), dtype=torch.float64, generator=draw) for _ in range(2)]
    whole = results(pair, None, torch.float64)
    monkeypatch.setattr(batching, "CPU_PIXELS", 2 * SHALLOW**2)  # half of them in fp64
    with mock.patch.object(tiled_pair, "tiles_of", wraps=tiles_of) as cut:
        tiled = results(pair, SIDE, torch.float64)
    assert cut.call_count >= 8, "a call for each tile, of two samples, with gradients and without"
    assert len(tiled) == len(whole) == 4
    for expected, found in zip(whole, tiled, strict=True):
        assert_close_by_scale(found, expected)
