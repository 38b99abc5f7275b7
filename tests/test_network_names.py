"""Networks by any of their names, and the layers that they have unless others are named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from perceptual import images
from torch import nn

import perceptual_ops as po
from perceptual_ops.compat import lpips, lpips_pytorch, piqa
from perceptual_ops.losses.arguments import DEFAULT_LAYERS
from perceptual_ops.networks import ALIASES, ARCHITECTURES
from perceptual_ops.networks.published import PUBLISHED
from perceptual_ops.recipes.comparison import METRICS, comparison

X, Y = images(1, 64), images(1, 64, seed=1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_default_content_of_every_network(name: str) -> None:
    layer = DEFAULT_LAYERS[name][2]
    assert po.PerceptualLoss(name, weights="random").content_layers == (layer,)
    assert po.PerceptualLoss(po.load_network(name, "random", layers=[layer])).content_layers == (layer,)


def test_default_content_is_computed() -> None:
    named = po.PerceptualLoss("squeezenet1_1", weights="random", content_layers=["fire5"])
    torch.testing.assert_close(po.PerceptualLoss("squeeze", weights="random")(X, Y), named(X, Y), rtol=0, atol=0)


@pytest.mark.parametrize("metric", ["content", "style"])
@pytest.mark.parametrize("network", METRICS["content"])
def test_compared_layers_of_every_network(metric: str, network: str) -> None:
    assert comparison(metric, network=network, weights="random").distance(X, Y) > 0


def test_own_module_has_no_default_content() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="content_layers: expected names of layers for a network of your own"):
        po.PerceptualLoss(module)
    assert po.PerceptualLoss(module, content_layers=None, style_layers=["0"]).content_layers == ()
    assert po.PerceptualLoss(module, content_weight=0, content_layers=["0"], style_layers=["0"]).content_layers == ()


@pytest.mark.parametrize("argument", ["content_layers", "style_layers"])
def test_unknown_layer_names_its_argument(argument: str) -> None:
    layers: dict[str, Any] = {"content_layers": None, argument: ["relu3_9"]}
    message = rf"{argument}: expected layers of vgg11 \(conv1_1, relu1_1, .*, pool5\), got 'relu3_9'"
    with pytest.raises(ValueError, match=message):
        po.PerceptualLoss("vgg11", weights="random", **layers)
    with pytest.raises(ValueError, match=f"{argument}: .*'relu3_9'"):
        po.PerceptualLoss(po.load_network("vgg11", "random"), **layers)


@pytest.mark.parametrize(("short", "full"), ALIASES.items())
def test_short_names(short: str, full: str) -> None:
    assert po.load_network(short, "random", layers=DEFAULT_LAYERS[full][:1]).name == full
    makers: list[Callable[[str], Callable[..., Any]]] = [
        lambda name: po.LPIPS(name, weights="random"),
        lambda name: comparison("lpips", network=name, weights="random").distance,
    ]
    for make in makers:
        torch.testing.assert_close(make(short)(X, Y), make(full)(X, Y), rtol=0, atol=0)
    labels = {comparison("lpips", network=name, weights="random").label for name in (short, full)}
    assert len(labels) == 1


@pytest.mark.parametrize("kind", [lpips.LPIPS, lpips_pytorch.LPIPS, piqa.LPIPS])
def test_drop_ins_know_the_names_of_their_peers(kind: Callable[..., nn.Module]) -> None:
    argument = {lpips.LPIPS: "net", lpips_pytorch.LPIPS: "net_type"}.get(kind, "network")
    for name in ALIASES:
        kind(**{argument: name}, weights="random")
    with pytest.raises(ValueError, match=f"{argument}: expected one of 'alex', 'vgg',"):
        kind(**{argument: "alexnet"}, weights="random")


@pytest.mark.parametrize("name", ["resnet50", "VGG16", None, 16])
def test_unknown_networks(name: Any) -> None:
    short = re.escape("or 'vgg' for vgg16, 'alex' for alexnet, 'squeeze' for squeezenet1_1; got ")
    known = f"'squeezenet1_1', {short}"
    for argument, make in (("name", po.load_network), ("network", po.LPIPS)):
        with pytest.raises(ValueError, match=f"^{argument}: expected one of .*{known}{name!r}"):
            make(name, weights="random")
    if isinstance(name, str) and name not in PUBLISHED:
        with pytest.raises(ValueError, match=f"^network: expected one of .*'dinov2_base', {short}"):
            po.PerceptualLoss(name, weights="random")
