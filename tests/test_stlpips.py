"""ST-LPIPS against the package it was published with, on photographs, with its own weights."""

from __future__ import annotations

import copy
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from maps import relative_error
from peers import crop, peer, run, untied, worse
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


def pair(name: str) -> tuple[Tensor, Tensor]:  # (1, 3, 36, 41) twice, in [-1, 1]
    image = crop(name, 36, 41)
    return 2 * worse(image) - 1, 2 * image - 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # torchvision's of deprecated arguments
@pytest.mark.parametrize(("network", "net"), [("alex", "alex"), ("vgg16", "vgg")])
def test_five_photographs(network: str, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"variant": "shift_tolerant", "verbose": False}
    theirs: nn.Module = package(monkeypatch).LPIPS(net=net, **settings).requires_grad_(False)
    ours = po.LPIPS(network, weights="stlpips")
    theirs.register_forward_hook(lambda module, inputs, value: value.flatten())  # (N, 1, 1, 1)
    double, exact = (copy.deepcopy(loss).double() for loss in (ours, theirs))
    scale, shift = double._kept["input"]  # the package's numbers are rounded to fp32
    exact.scaling_layer.shift, exact.scaling_layer.scale = -shift / scale, 1 / scale
    for name in PHOTOGRAPHS:
        x, y = pair(name)
        with torch.no_grad():
            assert relative_error(ours(x, y), theirs(x, y)) <= 1e-5, name
        # The gradient in fp64 alone: in fp32, windows of the poolings hold maxima that differ in their last place.
        found, expected = (run(loss, untied(x), y.double()) for loss in (double, exact))
        for one, other in zip(found, expected, strict=True):
            assert relative_error(one, other) <= 1e-9, name
