"""compat.torchmetrics's DISTS against torchmetrics."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from peers import (
    Difference,
    assert_frozen,
    difference,
    exact_dists_numbers,
    features,
    pairs,
    peer,
    state,
    torchvision_gives,
)
from torch import Tensor, nn

peer("torchmetrics")  # before ours looks for it: beside a torchvision built for another torch it cannot be imported
torchmetrics = importlib.import_module("perceptual_ops.compat.torchmetrics")

DISTS = torchmetrics.DeepImageStructureAndTextureSimilarity


class TheirDists(nn.Module):
    """torchmetrics' DISTS; the metric itself makes its network anew for every batch, and only in fp32."""

    def __init__(self) -> None:
        super().__init__()
        with torchvision_gives(vgg16=features("vgg16")):
            self.network = peer("torchmetrics.functional.image.dists").DISTSNetwork()
        for name, number in exact_dists_numbers().items():
            getattr(self.network, name).data = number

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # (N, 3, H, W)
        return self.network(x, y, require_grad=True).mean()


def dists_difference(x: Tensor, y: Tensor) -> Difference:
    def normalise(loss: Any, center: Tensor, deviation: Tensor) -> None:
        loss.network.mean, loss.network.std = center, deviation

    return difference(DISTS(weights=state("vgg16"), alpha_beta=exact_dists_numbers()), TheirDists(), x, y, normalise)


@pytest.mark.parametrize("name", ["batch", "odd size"])
def test_values_and_gradients_of_dists(name: str) -> None:
    dists_difference(*pairs()[name]).check()


def test_dists_collects_batches() -> None:
    ours = DISTS(weights=state("vgg16"))
    theirs = peer("torchmetrics.image.dists").DeepImageStructureAndTextureSimilarity()
    with torchvision_gives(vgg16=features("vgg16")):
        for metric in (ours, theirs):
            metric.update(*pairs()["batch"])
            metric.update(*pairs()["photograph"])
        torch.testing.assert_close(ours.compute(), theirs.compute().detach(), rtol=1e-5, atol=0)


def test_dists_as_a_function() -> None:
    theirs = peer("torchmetrics.functional.image.dists").deep_image_structure_and_texture_similarity
    ours = torchmetrics.deep_image_structure_and_texture_similarity
    with torchvision_gives(vgg16=features("vgg16")), torch.no_grad():
        for name, reduction in (("batch", None), ("batch", "sum"), ("photograph", "none")):
            pair = pairs()[name]
            value, expected = ours(*pair, reduction, weights=state("vgg16")), theirs(*pair, reduction)
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)


def test_dists_is_frozen() -> None:
    assert_frozen(DISTS("sum", weights=state("vgg16")))
