"""Losses by tiles through all layers are those of the whole image, value and gradient, in the memory of one tile."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from maps import assert_close_by_scale
from torch import Tensor, nn

from perceptual_ops import DISTS, LPIPS, PerceptualLoss
from perceptual_ops.engine import batching, tile_parts, tiled_pair
from perceptual_ops.engine.batching import AUTO, WHERE_LARGE, auto_tile_side, tile_side
from perceptual_ops.engine.tiles import tiles_of
from perceptual_ops.losses.base import FrozenLoss
from perceptual_ops.networks import load_network

pytestmark = pytest.mark.usefixtures("library")

SIDE = 64
STYLE = {"relu1_2": 1.0, "relu2_1": 2.0, "relu3_2": 1.0}


def perceptual(**settings: Any) -> Callable[[], FrozenLoss]:
    def make() -> FrozenLoss:
        made = {"content_layers": ["relu2_1"], "style_layers": None, **settings}
        loss = PerceptualLoss("vgg13", weights="random", reduction="none", **made).double()
        if loss.style_layers:
            loss.set_style(torch.rand((2, 3, 40, 33), generator=torch.Generator().manual_seed(4)).double())
        return loss

    return make


LOSSES: dict[str, Callable[[], FrozenLoss]] = {
    "content": perceptual(),
    "content, l1 and deep": perceptual(content_layers=["relu1_1", "pool4"], content_distance="l1"),
    "content, sse": perceptual(content_distance="sse"),
    "content, cosine": perceptual(content_distance="cosine"),
    "style": perceptual(content_layers=None, style_layers=STYLE, style_weight=1e3),
    "style, huber and hw": perceptual(style_layers=STYLE, style_distance="huber", gram_normalize="hw"),
    "style, none": perceptual(content_layers=None, style_layers=["relu2_1"], gram_normalize="none"),
    "style, mean_std": perceptual(style_layers=STYLE, style_statistics="mean_std", style_distance="sse"),
    "style, both": perceptual(content_layers=None, style_layers=STYLE, style_weight=1e3, style_statistics="both"),
    "unit features": perceptual(style_layers=STYLE, style_weight=1e3, normalize_features="channel"),
    "variation": perceptual(tv_weight=0.1),
    "LPIPS, vgg16": lambda: LPIPS("vgg16", weights="random", reduction="none").double(),
    "LPIPS, alexnet": lambda: LPIPS("alexnet", weights="random", reduction="none").double(),
    "DISTS": lambda: DISTS(weights="random", reduction="none").double(),
}


def images(size: tuple[int, int], samples: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(11)
    output, noise = (torch.rand((samples, 3, *size), dtype=dtype, generator=draw) for _ in range(2))
    return output, (0.8 * output + 0.2 * noise)


def results(loss: FrozenLoss, output: Tensor, target: Tensor | None, tile_size: int | None) -> list[Tensor]:
    """Values, and the gradients of a sum that weighs samples, with `tile_size`."""
    loss.tile_size = tile_size
    leaves = [x.clone().requires_grad_() for x in (output, target) if x is not None]
    value = loss(*leaves)
    (value * torch.tensor([2.0, -3.0])[: len(value)]).sum().backward()
    with torch.no_grad():
        alone = loss(output, target)
    return [value.detach(), alone, *(x.grad for x in leaves if x.grad is not None)]


def given_to(loss: FrozenLoss, target: Tensor) -> Tensor | None:
    return None if isinstance(loss, PerceptualLoss) and not loss.content_layers else target


@pytest.mark.parametrize("name", LOSSES)
def test_tiles_give_value_and_gradients_of_the_whole(name: str) -> None:
    is_deep = name in ("LPIPS, vgg16", "DISTS", "content, l1 and deep")
    output, target = images((99, 67), samples=1) if is_deep else images((101, 99))
    loss = LOSSES[name]()
    whole, tiled = (results(loss, output, given_to(loss, target), tile_size) for tile_size in (None, SIDE))
    assert len(whole) == len(tiled) >= 3
    for expected, found in zip(whole, tiled, strict=True):
        assert_close_by_scale(found, expected)


@pytest.mark.parametrize("pooling", ["average", "blur", "l2"])
@pytest.mark.parametrize("size", [(64, 103), (98, 33)], ids=str)
def test_tiles_of_every_pooling(pooling: str, size: tuple[int, int]) -> None:
    network = load_network("vgg11", "random", pooling=pooling)
    loss = PerceptualLoss(network, content_layers=["pool3"], style_layers=["relu2_1"], reduction="none").double()
    output, target = images(size, samples=1)
    loss.set_style(target)
    for expected, found in zip(*(results(loss, output, target, tile) for tile in (None, SIDE)), strict=True):
        assert_close_by_scale(found, expected)


def test_terms_and_kept_targets() -> None:
    output, target = images((99, 65))
    loss = PerceptualLoss("vgg11", weights="random", style_layers=["relu2_1"], tv_weight=1e-3, reduction="none")
    loss.double().set_style(target[:1])
    loss.set_content(target[:1])
    whole, tiled = [], []
    for found, tile_size in ((whole, None), (tiled, SIDE)):
        loss.tile_size = tile_size
        with torch.no_grad():
            value, terms = loss(output, return_terms=True)
        given, _ = loss(output, target[:1], return_terms=True)
        found += [value, given, *terms.values()]
    assert len(tiled) == 2 + 5
    for expected, made in zip(whole, tiled, strict=True):
        torch.testing.assert_close(made, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("style_statistics", ["gram", "both"])
@pytest.mark.parametrize("normalize_features", ["none", "channel"])
def test_targets_of_large_style_images(normalize_features: str, style_statistics: str) -> None:
    loss = PerceptualLoss(
        "vgg11", weights="random", content_layers=None, style_layers=["relu1_1", "relu3_1"], chunk_size=1,
        normalize_features=normalize_features, style_statistics=style_statistics,
    ).double()  # fmt: skip
    output, style = images((67, 99))
    found = []
    for tile_size in (None, SIDE):
        loss.tile_size = tile_size
        with mock.patch.object(loss, "target_features", wraps=loss.target_features) as whole:
            loss.set_style([style, style[:1]])
        assert whole.called == (tile_size is None)
        loss.tile_size = None
        found.append(loss(output))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=0.0)


def test_a_style_in_compiled_code() -> None:
    loss = PerceptualLoss("vgg11", weights="random", style_layers=["relu1_1"], tile_size=SIDE)
    output, style = images((99, 32), samples=1, dtype=torch.float32)
    compiled = torch.compile(lambda x: loss(x, style, style), fullgraph=True, backend="aot_eager")
    leaf, expected = (output.clone().requires_grad_() for _ in range(2))
    compiled(leaf).backward()
    loss(expected, style, style).backward()
    torch.testing.assert_close(leaf.grad, expected.grad)


@pytest.mark.parametrize("name", ["content", "style", "LPIPS, alexnet", "DISTS"])
def test_tiles_of_fp32_round_as_the_whole(name: str) -> None:
    loss = LOSSES[name]()
    output, target = images((67, 99), samples=2 if name == "style" else 1)
    exact = results(loss, output, given_to(loss, target), None)
    loss = loss.float()
    whole, tiled = (
        results(loss, output.float(), given_to(loss, target.float()), tile_size) for tile_size in (None, SIDE)
    )
    for truth, naive, found in zip(exact, whole, tiled, strict=True):
        error, allowed = ((x.double() - truth).norm() / truth.norm() for x in (found, naive))
        assert error <= 2 * max(allowed, torch.tensor(2.0**-24))


@pytest.mark.parametrize("name", ["content", "unit features", "LPIPS, alexnet"])
def test_tiles_of_fp16_have_a_scale(name: str) -> None:
    loss = LOSSES[name]().float()
    loss.compute_dtype = torch.float16
    output, target = images((70, 97), samples=1, dtype=torch.float32)
    if name == "unit features":
        loss.set_style(target)
    whole, tiled = (results(loss, output, given_to(loss, target), tile_size) for tile_size in (None, 48))
    for expected, found in zip(whole, tiled, strict=True):
        assert torch.isfinite(found).all()
        assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.99


def test_the_side_is_a_function_of_size_dtype_and_device() -> None:
    assert auto_tile_side(torch.float32, "cpu") == 768 and auto_tile_side(torch.bfloat16, "cuda") == 2048
    assert tile_side(WHERE_LARGE, 2048, 2048, torch.float32, "cpu") is None
    assert tile_side(WHERE_LARGE, 2048, 2050, torch.float32, "cpu") == 768
    assert tile_side(WHERE_LARGE, 2048, 2050, torch.bfloat16, "cpu") is None
    assert tile_side(AUTO, 1000, 700, torch.float32, "cpu") is None  # no more than one and a half tiles on a side
    assert tile_side(AUTO, 1200, 700, torch.float32, "cpu") == 768
    assert tile_side(100, 200, 90, torch.float32, "cuda") == 100
    assert auto_tile_side(torch.float32, "cpu", is_nested=True) == 1536
    assert tile_side(AUTO, 2303, 2303, torch.float32, "cpu", is_nested=True) is None
    assert tile_side(AUTO, 2306, 100, torch.float32, "cpu", is_nested=True) == 1536


@pytest.mark.parametrize("name", ["DISTS", "content", "LPIPS, alexnet"])
def test_large_images_go_in_tiles_unasked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LARGE", 90 * 64)
    monkeypatch.setattr(batching, "TILE_PIXELS", SIDE**2 // 4)  # of LPIPS, sides are twice as long
    loss = LOSSES[name]()
    loss.tile_size, loss.compute_dtype = None, None
    pair = images((99, 67), samples=1)
    with mock.patch.object(tile_parts, "tiles_of", wraps=tiles_of) as cut, torch.no_grad():
        loss.float()(*(x.float() for x in pair))
    assert cut.called


@pytest.mark.parametrize("name", ["vgg16", "alexnet"])
def test_every_tile_has_some_of_every_map(name: str) -> None:
    layers = load_network(name, "random").layers
    wanted = [layer.name for layer in layers]
    for length in range(256, 256 + 70):
        for tile in tiles_of(layers, wanted, (length, 64), side=1):
            for layer in wanted:
                rows, columns = tile.whole(layer)[1:]
                assert rows.stop > rows.start and columns.stop > columns.start, (length, layer)


@pytest.mark.parametrize("seed", range(12))
def test_tiles_of_plain_sequences(seed: int) -> None:
    """Of any padding, stride and window, where the last pixels may have no part of a deep map."""
    draw, numbers = random.Random(seed), torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(draw.randint(2, 6)):
        kernel = draw.choice([1, 3, 5])
        stride, padding = draw.choice([1, 1, 1, 2]), draw.randint(0, kernel // 2)
        convolution = nn.Conv2d(4 if i else 3, 4, kernel, stride, padding)
        for parameter in convolution.parameters():  # of one sign: no ReLU is dead
            nn.init.uniform_(parameter, 0.0, 0.2, generator=numbers)
        layers += [convolution, nn.ReLU()]
        if draw.random() < 0.3:
            layers.append(nn.MaxPool2d(2))
    network = nn.Sequential(*layers)
    deepest = str(max(i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)))
    loss = PerceptualLoss(network, content_layers=[deepest], style_layers=["1"], reduction="none", mean=[0], std=[1])
    output, target = images((150, 131), samples=1)
    loss = loss.double()
    loss.set_style(target)
    for expected, found in zip(*(results(loss, output, target, tile) for tile in (None, 8)), strict=True):
        assert_close_by_scale(found, expected, 1e-9)


def test_kept_content_of_large_images() -> None:
    loss = LOSSES["content, l1 and deep"]()
    output, target = images((99, 67), samples=1)
    found = []
    for tile_size in (None, SIDE):
        loss.tile_size = tile_size
        with mock.patch.object(tile_parts, "tiles_of", wraps=tiles_of) as cut:
            loss.set_content(target)
        assert cut.called == (tile_size is not None)
        loss.tile_size = None
        found.append(loss(output))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=0.0)


def test_lpips_keeps_its_shallow_tiles_in_one_deep_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "CPU_PIXELS", 32 * 32)
    loss = LPIPS("vgg16", weights="random", tile_size=1000)
    pair = images((64, 64), samples=1, dtype=torch.float32)
    with mock.patch.object(tiled_pair, "tiles_of", wraps=tiles_of) as cut, torch.no_grad():
        loss(*pair)
    assert cut.called


@pytest.mark.parametrize("size", [0, -1, 1.5, "large", True])
def test_other_tile_sizes_are_refused(size: Any) -> None:
    with pytest.raises(ValueError, match='tile_size: expected None, "auto" or a whole number'):
        LPIPS("alexnet", weights="random", tile_size=size)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"engine": "autograd"}, 'engine="autograd" keeps'),
        ({"network": "squeezenet1_1", "content_layers": ["fire2"]}, "squeezenet1_1 is no chain"),
        ({"input_size": 64}, "input_size brings"),
        ({"backend": "reference"}, 'backend="reference" keeps'),
    ],
)
def test_tiles_that_cannot_be_had_are_refused(options: dict[str, Any], reason: str) -> None:
    loss = PerceptualLoss(**{"network": "vgg11", "weights": "random", "tile_size": SIDE, **options})
    with pytest.raises(ValueError, match=f"tile_size: expected None, since {reason}"):
        loss(*images((70, 97), samples=1, dtype=torch.float32))


def test_gradients_of_maps_and_layers_of_lpips_are_refused_with_tiles() -> None:
    pair = images((70, 97), samples=1, dtype=torch.float32)
    with pytest.raises(ValueError, match="tile_size: expected None, since spatial=True gives a map, whose gradient"):
        LPIPS("alexnet", weights="random", spatial=True, tile_size=SIDE)(pair[0].requires_grad_(), pair[1])
    with pytest.raises(ValueError, match="tile_size: expected None, since tiles give no shares of the layers"):
        LPIPS("alexnet", weights="random", tile_size=SIDE)(*pair, return_layers=True)
