"""tile_size of drop-ins: value and gradient of the whole image, targets in tiles, too, or an error; never ignored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from maps import assert_close_by_scale
from torch import Tensor, nn

import perceptual_ops as po
from perceptual_ops.compat import basicsr, lpips, piq, torchmetrics
from perceptual_ops.engine import tile_parts

pytestmark = pytest.mark.usefixtures("library")

SIDE = 64
SHALLOW = {"layers": ["relu1_1", "relu2_1"], "weights": [0.5, 1.0], "network_weights": "random"}
content, style = partial(piq.ContentLoss, **SHALLOW), partial(piq.StyleLoss, **SHALLOW)
of_basicsr = partial(basicsr.PerceptualLoss, {"relu1_1": 0.5, "conv2_1": 1.0}, "vgg11", weights="random")
MAKERS: dict[str, Callable[..., nn.Module]] = {
    "piq, content": content,
    "piq, style": style,
    "basicsr, content": of_basicsr,
    "basicsr, style": partial(of_basicsr, perceptual_weight=0.0, style_weight=1.0),
    "lpips": partial(lpips.LPIPS, weights="random"),
    "torchmetrics": lambda: torchmetrics.LearnedPerceptualImagePatchSimilarity(weights="random").net,
}


def images(seed: int) -> Tensor:
    return torch.rand((1, 3, 40, 140), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value_of(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    found = loss(x, y)
    (value,) = [part for part in found if part is not None] if isinstance(found, tuple) else [found]
    return value.sum()


@pytest.mark.parametrize("name", MAKERS)
def test_value_and_gradient_are_those_of_the_whole(name: str) -> None:
    loss, x, y, found = MAKERS[name]().double(), images(0).requires_grad_(), images(1), []
    for tile_size in (None, SIDE):
        loss.tile_size = tile_size
        with mock.patch.object(tile_parts, "tiles_of", wraps=tile_parts.tiles_of) as cut:
            value = value_of(loss, x, y)
        assert cut.called == (tile_size is not None)
        found.append([value.detach(), *torch.autograd.grad(value, x)])
    for whole, tiled in zip(*found, strict=True):
        assert_close_by_scale(tiled, whole, 1e-9)


@pytest.mark.parametrize("name", ["piq, style", "basicsr, style"])
def test_no_map_of_a_style_is_held_whole(name: str) -> None:
    loss = MAKERS[name](tile_size=SIDE)
    with mock.patch.object(po.PerceptualLoss, "target_features", side_effect=AssertionError("whole maps")):
        assert value_of(loss, images(0).float(), images(1).float()) > 0


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (of_basicsr, {"style_weight": 1.0}),
        (of_basicsr, {"criterion_type": "fro"}),
        (content, {"normalize_features": True}),
        (content, {"distance": nn.SmoothL1Loss(reduction="none")}),
        (content, {"weights": [torch.ones(64, 1, 1), 1.0]}),
        (content, {"get_features": lambda x: [x, x]}),
        (partial(content, nn.Sequential(nn.Conv2d(3, 4, 3)), layers=["0"], weights=[1.0]), {}),
        (partial(piq.LPIPS, weights="random"), {"distance": "mae"}),
        (partial(piq.DISTS, weights="random"), {"normalize_features": True}),
    ],
)  # fmt: skip
def test_what_takes_autograd_refuses_tiles(make: Callable[..., nn.Module], settings: dict[str, Any]) -> None:
    loss = make(tile_size=SIDE)
    for name, value in settings.items():
        setattr(loss, name, value)
    with pytest.raises(ValueError, match=r"tile_size: expected None for .*; got 64"):
        loss(images(0).float(), images(1).float())


def test_tiles_are_refused_at_once_where_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="tile_size: expected None for two losses at once"):
        of_basicsr(style_weight=1.0, tile_size=SIDE)


def test_a_style_whose_gradient_is_wanted_refuses_tiles() -> None:
    x, y = images(0).float(), images(1).float().requires_grad_()
    with pytest.raises(ValueError, match="tile_size: expected None for"):
        style(tile_size=SIDE)(x, y)
    with torch.no_grad():
        assert style(tile_size=SIDE)(x, y) > 0


def test_shares_of_layers_refuse_tiles() -> None:
    with pytest.raises(ValueError, match="tile_size: expected None, since tiles give no shares of the layers; got 64"):
        lpips.LPIPS(weights="random", tile_size=SIDE)(images(0).float(), images(1).float(), retPerLayer=True)
