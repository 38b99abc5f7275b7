"""ST-LPIPS against the package it was published with, on photographs, with its own weights."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from peers import crop, difference, peer, worse
from torch import Tensor, nn

import perceptual_ops as po

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina")


def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package; two others that it imports and never needs are stood in for."""
    for name, member in (("IPython", "embed"), ("torchsummary", "summary")):
        stand_in = ModuleType(name)
        setattr(stand_in, member, None)
        monkeypatch.setitem(sys.modules, name, stand_in)
    return peer("stlpips_pytorch.stlpips")


def pair(name: str) -> tuple[Tensor, Tensor]:  # (1, 3, 40, 50) twice, in [-1, 1]
    image = crop(name, 40, 50)
    return 2 * worse(image) - 1, 2 * image - 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # torchvision's of deprecated arguments
@pytest.mark.parametrize(("network", "net"), [("alex", "alex"), ("vgg16", "vgg")])
def test_five_photographs(network: str, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"variant": "shift_tolerant", "verbose": False}
    theirs: nn.Module = package(monkeypatch).LPIPS(net=net, **settings).requires_grad_(False)
    ours = po.LPIPS(network, weights="stlpips")
    theirs.register_forward_hook(lambda module, inputs, value: value.flatten())  # (N, 1, 1, 1)
    for name in PHOTOGRAPHS:
        found = difference(ours, theirs, *pair(name), set_input_map)
        # Not the fp32 gradient: windows of the poolings hold maxima that differ in their last place.
        assert found.value <= 1e-5 and found.value_fp64 <= 1e-9 and found.gradient_fp64 <= 1e-9, (name, found)


def set_input_map(loss: Any, center: Tensor, deviation: Tensor) -> None:
    loss.scaling_layer.shift, loss.scaling_layer.scale = center, deviation
