"""Losses as training scripts write them in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_ops import load_network
from perceptual_ops.names import NetworkName
from perceptual_ops.networks import Relu, WeightSource

# pytorch/examples' fast neural style: both terms reach the gradient.
STYLES, CONTENT = ("relu1_2", "relu2_2", "relu3_3", "relu4_3"), "relu2_2"
STYLE_WEIGHT, CONTENT_WEIGHT = 1e10, 1e5


def gram(features: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, C)
    batch, channels, height, width = features.shape
    flat = features.view(batch, channels, height * width)
    return flat.bmm(flat.transpose(1, 2)) / (channels * height * width)


class Features(nn.Module):
    """Images (N, 3, H, W) in [0, 1] -> maps by layer, of a frozen chain under ordinary autograd.

    ReLUs work in place, as torchvision's do.

    Args:
        weights: See `load_network`.
        layout: Memory format of the network and its maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: NetworkName,
        layers: Sequence[str],
        weights: WeightSource,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        loaded = load_network(network, weights, layers=layers)
        self.layout, self.slices = layout, nn.ModuleDict()
        modules: list[nn.Module] = []
        for layer in loaded.layers:
            modules.append(nn.ReLU(inplace=True) if isinstance(layer, Relu) else deepcopy(loaded.module_of(layer)))
            if layer.name in layers:
                self.slices[layer.name] = nn.Sequential(*modules)
                modules = []
        for name, values in (("mean", loaded.mean), ("std", loaded.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        self.to(memory_format=layout)
        self.requires_grad_(False)

    def forward(self, images: Tensor, last: str) -> dict[str, Tensor]:
        """Up to the last layer wanted."""
        x = (images.contiguous(memory_format=self.layout) - self.mean) / self.std
        found = {}
        for name, layers in self.slices.items():
            found[name] = x = layers(x)
            if name == last:
                break
        return found


class PlainFeatureLoss(nn.Module):
    """SRGAN's loss as super-resolution trains with it: the mean squared error at conv5_4 of VGG19."""

    LAYER = "conv5_4"

    def __init__(self, layout: torch.memory_format = torch.contiguous_format) -> None:
        super().__init__()
        self.features = Features("vgg19", [self.LAYER], "random", layout)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (N, 3, H, W) each
        with torch.no_grad():
            wanted = self.features(target, self.LAYER)[self.LAYER]
        return F.mse_loss(self.features(output, self.LAYER)[self.LAYER], wanted)


class PlainLoss(nn.Module):
    """The numbers of PerceptualLoss.preset("johnson-style"), after pytorch/examples.

    The content image runs without a graph and no further than its tap, which is less than pytorch/examples does: it
    runs the whole trunk.

    Args:
        weights, layout: Of VGG16, see `Features`.
    """

    grams: list[Tensor]

    def __init__(self, weights: WeightSource, layout: torch.memory_format = torch.contiguous_format) -> None:
        super().__init__()
        self.features = Features("vgg16", STYLES, weights, layout)

    def set_style(self, image: Tensor) -> None:  # (1, 3, H, W)
        with torch.no_grad():
            self.grams = [gram(x) for x in self.features(image, STYLES[-1]).values()]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (N, 3, H, W) each
        with torch.no_grad():
            content = self.features(target, CONTENT)[CONTENT]
        found = self.features(output, STYLES[-1])
        style = sum(
            F.mse_loss(gram(x), wanted.expand(len(x), -1, -1))
            for x, wanted in zip(found.values(), self.grams, strict=True)
        )
        return CONTENT_WEIGHT * F.mse_loss(found[CONTENT], content) + STYLE_WEIGHT * style
