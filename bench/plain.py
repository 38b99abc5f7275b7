"""The loss as training scripts write it in plain PyTorch, after pytorch/examples' fast neural style."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_ops import load_network
from perceptual_ops.networks import Relu, WeightSource

from .cases import CONTENT_WEIGHT, STYLE_WEIGHT, TAPS

CONTENT = "relu2_2"


def gram(features: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, C)
    batch, channels, height, width = features.shape
    flat = features.view(batch, channels, height * width)
    return flat.bmm(flat.transpose(1, 2)) / (channels * height * width)


class PlainLoss(nn.Module):
    """The numbers of PerceptualLoss.preset("johnson-style"), by a frozen trunk under ordinary autograd.

    ReLUs work in place, as torchvision's do. The content image runs without a graph and no further than its tap, which
    is less than pytorch/examples does: it runs the whole trunk.

    Args:
        weights: Of VGG16, see `load_network`.
        layout: Memory format of the trunk and its maps.
    """

    grams: list[Tensor]

    def __init__(self, weights: WeightSource, layout: torch.memory_format = torch.contiguous_format) -> None:
        super().__init__()
        network = load_network("vgg16", weights, layers=TAPS)
        self.layout = layout
        self.slices = nn.ModuleDict()
        layers: list[nn.Module] = []
        for layer in network.layers:
            layers.append(nn.ReLU(inplace=True) if isinstance(layer, Relu) else deepcopy(network.module_of(layer)))
            if layer.name in TAPS:
                self.slices[layer.name] = nn.Sequential(*layers)
                layers = []
        for name, values in (("mean", network.mean), ("std", network.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        self.to(memory_format=layout)
        self.requires_grad_(False)

    def features(self, images: Tensor, last: str) -> dict[str, Tensor]:  # (N, 3, H, W)
        """Maps by tap, up to the last one wanted."""
        x = (images.contiguous(memory_format=self.layout) - self.mean) / self.std
        found = {}
        for name, layers in self.slices.items():
            found[name] = x = layers(x)
            if name == last:
                break
        return found

    def set_style(self, image: Tensor) -> None:  # (1, 3, H, W)
        with torch.no_grad():
            self.grams = [gram(x) for x in self.features(image, next(reversed(TAPS))).values()]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (N, 3, H, W) each
        with torch.no_grad():
            content = self.features(target, CONTENT)[CONTENT]
        found = self.features(output, next(reversed(TAPS)))
        style = sum(
            F.mse_loss(gram(x), wanted.expand(len(x), -1, -1))
            for x, wanted in zip(found.values(), self.grams, strict=True)
        )
        return CONTENT_WEIGHT * F.mse_loss(found[CONTENT], content) + STYLE_WEIGHT * style
