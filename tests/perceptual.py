"""A small PerceptualLoss for tests, and the features it is made of by the network alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import perceptual_ops as po

MEAN, STD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)
CONTENT = {"pool1": 0.5, "conv2_1": 2.0}
STYLE = {"relu1_1": 3.0, "relu2_1": 1.5}


def images(batch: int, size: int = 24, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.rand((batch, 3, size, size + 3), generator=torch.Generator().manual_seed(seed)).to(device)


def make(backend: str = "auto", device: str = "cpu", **settings: object) -> po.PerceptualLoss:
    settings = {"content_layers": CONTENT, "style_layers": STYLE} | settings
    return po.PerceptualLoss("vgg11", weights="random", backend=backend, **settings).to(device)


def features(x: Tensor, layers: Sequence[str]) -> list[Tensor]:
    """Features of images in [0, 1] by the network alone."""
    network = po.load_network("vgg11", "random", layers=layers).to(x.device, x.dtype)
    normalized = (x - MEAN.view(3, 1, 1).to(x)) / STD.view(3, 1, 1).to(x)
    found = network.features(normalized, layers)
    return [found[layer] for layer in layers]
