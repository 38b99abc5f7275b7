"""A loss that was made and used under torch.inference_mode, as a lazy validation does, trains later."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from perceptual import images, make
from torch import Tensor, nn

import perceptual_ops as po


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "perceptual": make,
    "perceptual, autograd": lambda: make(engine="autograd"),
    "perceptual, reference": lambda: make(backend="reference"),
    "own module": lambda: po.PerceptualLoss(encoder(), content_layers=["2"], style_layers=["0"], mean=[0.5], std=[0.5]),
    "network of load_network": lambda: po.PerceptualLoss(
        po.load_network("vgg11", "random", layers=["relu1_1"]), content_layers=["relu1_1"], style_layers=["relu1_1"],
        engine="autograd",
    ),
    "lpips": lambda: po.LPIPS("alex", weights="random", reduction="sum"),
    "lpips, autograd": lambda: po.LPIPS("alex", weights="random", reduction="sum", engine="autograd"),
    "lpips, squeeze": lambda: po.LPIPS("squeeze", weights="random", reduction="sum"),
    "lpips, spatial": lambda: po.LPIPS("alex", weights="random", spatial=True),
    "dists, autograd": lambda: po.DISTS(weights="random", reduction="sum", engine="autograd"),
}  # fmt: skip
X, Y, STYLE = images(2, 36), images(2, 36, seed=1), images(1, 36, seed=2)


def gradient(loss: nn.Module) -> Tensor:
    output = X.clone().requires_grad_()
    loss(output, Y).sum().backward()
    assert output.grad is not None
    return output.grad


@pytest.mark.parametrize("how", ["made", "made and moved", "set later"])
@pytest.mark.parametrize("name", MAKERS)
def test_trains_later(name: str, how: str) -> None:
    loss = MAKERS[name]()
    with torch.inference_mode():
        lazy = MAKERS[name]()
        if isinstance(lazy, po.PerceptualLoss):
            lazy.set_style(STYLE)
        if how == "made and moved":
            lazy.to(torch.float64).to(torch.float32)
        if how == "set later":
            lazy.input_range = (0.0, 0.5)
        lazy(X, Y)
    if isinstance(loss, po.PerceptualLoss):
        loss.set_style(STYLE)
    if how == "set later":
        loss.input_range = (0.0, 0.5)
    torch.testing.assert_close(gradient(lazy), gradient(loss))
