"""Every drop-in refuses a pair of unlike images by the names that its caller knows them by."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from metrics import pictures, trunk_weights
from torch import nn

from perceptual_ops.compat import basicsr, dists, lpips, piq


def torchmetrics() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an installation of it that cannot be imported
        return importlib.import_module("perceptual_ops.compat.torchmetrics")


VGG16, ALEX = trunk_weights("vgg16"), trunk_weights("alex")
BASICSR: dict[str, Any] = {"layer_weights": {"conv1_2": 1.0}, "vgg_type": "vgg16", "weights": VGG16}
PIQ: dict[str, Any] = {"layers": ["relu1_2"], "network_weights": VGG16}
MAKERS: dict[str, tuple[str, str, Callable[[], nn.Module]]] = {
    "lpips": ("in0", "in1", lambda: lpips.LPIPS(weights=ALEX)),
    "dists": ("x", "y", lambda: dists.DISTS(weights=VGG16)),
    "piq LPIPS": ("x", "y", lambda: piq.LPIPS(weights=VGG16)),
    "piq LPIPS mae": ("x", "y", lambda: piq.LPIPS(distance="mae", weights=VGG16)),
    "piq DISTS": ("x", "y", lambda: piq.DISTS(weights=VGG16)),
    "piq ContentLoss": ("x", "y", lambda: piq.ContentLoss(**PIQ)),
    "piq StyleLoss": ("x", "y", lambda: piq.StyleLoss(**PIQ)),
    "basicsr content": ("x", "gt", lambda: basicsr.PerceptualLoss(**BASICSR)),
    "basicsr both": ("x", "gt", lambda: basicsr.PerceptualLoss(**BASICSR, style_weight=1.0)),
    "basicsr fro": ("x", "gt", lambda: basicsr.PerceptualLoss(**BASICSR, criterion="fro")),
    "torchmetrics LPIPS": (
        "img1", "img2", lambda: torchmetrics().LearnedPerceptualImagePatchSimilarity(normalize=True, weights=ALEX)
    ),
    "torchmetrics DISTS": (
        "preds", "target", lambda: torchmetrics().DeepImageStructureAndTextureSimilarity(weights=VGG16)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_unlike_images_are_named_as_the_caller_names_them(name: str) -> None:
    first, second, make = MAKERS[name]
    loss, images = make(), pictures(2)
    for other in (images[..., 1:, :], images[..., 1:], pictures(3)):
        with pytest.raises(ValueError, match="expected the batch and size") as caught:
            loss(images, other)
        assert str(caught.value) == (
            f"{second}: expected the batch and size of {first}, or a batch of 1; {first} is "
            f"{tuple(images.shape)}, {second} {tuple(other.shape)}"
        )


def test_a_style_alone_may_be_of_another_size() -> None:
    loss, images = basicsr.PerceptualLoss(**BASICSR, perceptual_weight=0.0, style_weight=1.0), pictures(2)
    assert torch.isfinite(loss(images, images[..., 1:])[1])
    with pytest.raises(ValueError, match=r"gt: expected the batch of x, or a batch of 1; x is \(2, 3, 32, 35\)"):
        loss(images, pictures(3))
