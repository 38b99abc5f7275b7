"""The image transformation networks of Johnson, Alahi and Fei-Fei 2016."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._module import Module

Border = Literal["zeros", "reflect"]  # what a convolution sees beyond its input
SCALES = (2, 4, 8)  # of super-resolution
BORDER = 8  # pixels that `StyleNet` adds on each side: more than the 7 of zeros that its last layers see
RESIDUE = 0.1  # what each addition of `SuperResolutionNet` is multiplied with
STROKE = 0.02  # what `StyleNet` multiplies its addition with: a step of Adam can move what is multiplied by about 1
FLAT = 0.01  # variance of a picture's channel that `StyleNet` takes for half noise: contrast is not made of nothing


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, border: Border = "zeros") -> nn.Conv2d:
    """(N, inputs, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode=border)


class ResidualBlock(Module):
    """(N, C, H, W) -> the same: the input plus what two convolutions make of it, no ReLU (Gross and Wilber 2016).

    Args:
        channels: C.
        normalized: Whether instance normalisation follows the convolutions.
        share: What the addition is multiplied with.
        border: Of its convolutions.
    """

    def __init__(self, channels: int, normalized: bool, share: float = 1.0, border: Border = "zeros") -> None:
        super().__init__()
        self.share: float = share
        self.body: nn.Sequential = nn.Sequential(
            *_layer(channels, channels, 3, normalized=normalized, border=border),
            *_layer(channels, channels, 3, normalized=normalized, border=border)[:-1],
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.share * self.body(x)
        return x + change


class Enlarge(Module):
    """(N, C, H, W) -> (N, C', *size): the nearest pixel, then a convolution.

    The paper's transposed convolutions leave a checkerboard (Odena, Dumoulin and Olah 2016, "Deconvolution and
    Checkerboard Artifacts"), this does not.
    """

    def __init__(self, inputs: int, outputs: int, normalized: bool) -> None:
        super().__init__()
        self.layer: nn.Sequential = nn.Sequential(*_layer(inputs, outputs, 3, normalized=normalized))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        enlarged: Tensor = self.layer(F.interpolate(x, size, mode="nearest"))
        return enlarged


class StyleNet(Module):
    """Images (N, 3, H, W) in [0, 1] -> the same, in a style; for sides of at least 9 pixels. A little may lie beyond.

    The paper's: mirrored at the border, 9x9, two of stride 2, residual blocks, twice up, 9x9; with instance
    normalisation (Ulyanov, Vedaldi and Lempitsky 2016) for batch normalisation, and `Enlarge` for transposed
    convolutions. What it paints is added to the image in the style's palette, each channel with the style's mean and
    deviation, where `stylize` starts too: training does not have to find colours and contrast, nor the image. And it is
    added in small measure: Adam's first steps move all 2,592 weights of a 9x9 filter at once, which would drive whole
    regions far off.

    Args:
        width: Channels at full size; twice and four times as many further in.
        blocks: Residual blocks.
        style: Picture (1, 3, H, W) in [0, 1] whose palette it starts with. None: grey, with a deviation of 0.25.

    Raises:
        ValueError: The style is no picture.
    """

    def __init__(self, width: int = 32, blocks: int = 5, style: Tensor | None = None) -> None:
        super().__init__()
        self.arguments: dict[str, int] = {
            "width": width,
            "blocks": blocks,
        }  # what its file says of it; the palette is in the weights
        self.palette: nn.InstanceNorm2d = _palette(style)
        # The blocks see far: from zeros a network learns where borders are, and lays the style's colours in bars there.
        mirrored: Border = "reflect"
        self.first: nn.Sequential = nn.Sequential(*_layer(3, width, 9, border=mirrored))
        self.halve: nn.Sequential = nn.Sequential(*_layer(width, 2 * width, 3, stride=2, border=mirrored))
        self.quarter: nn.Sequential = nn.Sequential(*_layer(2 * width, 4 * width, 3, stride=2, border=mirrored))
        residual = [ResidualBlock(4 * width, normalized=True, border=mirrored) for _ in range(blocks)]
        self.blocks: nn.Sequential = nn.Sequential(*residual)
        self.to_half: Enlarge = Enlarge(4 * width, 2 * width, normalized=True)
        self.to_full: Enlarge = Enlarge(2 * width, width, normalized=True)
        self.last: nn.Conv2d = _zeroed(convolution(width, 3, 9))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the same."""
        height, width = images.shape[2:]
        start: Tensor = self.palette(images)
        # What the last layers see beyond the border would show as a frame: so it lies farther out.
        images = F.pad(images, (BORDER,) * 4, mode="reflect")
        half = self.halve(self.first(images))
        x = self.blocks(self.quarter(half))
        # To the sizes on the way in: those of odd ones are no multiples.
        x = self.to_half(x, (half.shape[2], half.shape[3]))
        x = self.to_full(x, (images.shape[2], images.shape[3]))
        strokes: Tensor = self.last(x)
        return start + STROKE * strokes[..., BORDER : BORDER + height, BORDER : BORDER + width]


class SuperResolutionNet(Module):
    """Images (N, 3, H, W) in [0, 1] -> (N, 3, scale H, scale W); of any size.

    The paper's: 9x9, residual blocks at the small size, log2(scale) times up, 9x9. It adds to a bicubic enlargement,
    where training starts (Kim et al. 2016, VDSR), and normalises nothing: statistics of a picture are part of what is
    to be restored (Lim et al. 2017, EDSR). So its weights begin as He et al. 2015 draw them, and a tenth of each
    residue is added, as in EDSR. The result may overshoot [0, 1] by a little.

    Args:
        scale: 2, 4 or 8.
        width: Channels.
        blocks: Residual blocks.

    Raises:
        ValueError: Another scale.
    """

    def __init__(self, scale: int = 4, width: int = 64, blocks: int = 5) -> None:
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f"scale: expected {', '.join(map(str, SCALES))}, got {scale!r}")
        self.arguments: dict[str, int] = {"scale": scale, "width": width, "blocks": blocks}  # what its file says of it
        self.scale: int = scale
        self.first: nn.Sequential = nn.Sequential(*_layer(3, width, 9, normalized=False))
        self.blocks: nn.Sequential = nn.Sequential(
            *(ResidualBlock(width, normalized=False, share=RESIDUE) for _ in range(blocks))
        )
        self.doublings: nn.ModuleList = nn.ModuleList(
            Enlarge(width, width, normalized=False) for _ in range(int(math.log2(scale)))
        )
        self.apply(_he_initialized)
        self.last: nn.Conv2d = _zeroed(convolution(width, 3, 9))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, scale H, scale W)."""
        height, width = images.shape[2:]
        x = self.blocks(self.first(images - 0.5))  # about zero, as He et al. suppose
        for times, doubling in enumerate(self.doublings, 1):
            x = doubling(x, (2**times * height, 2**times * width))
        large = F.interpolate(images, (self.scale * height, self.scale * width), mode="bicubic", align_corners=False)
        residue: Tensor = self.last(x)
        return large + RESIDUE * residue


def _palette(style: Tensor | None) -> nn.InstanceNorm2d:
    """(N, 3, H, W) -> the same, each channel with the mean and nearly the deviation of the style's."""
    if style is not None and (style.dim() != 4 or style.shape[:2] != (1, 3)):
        raise ValueError(f"style: expected a picture (1, 3, H, W), got {tuple(style.shape)}")
    palette = nn.InstanceNorm2d(3, eps=FLAT, affine=True)
    deviation, mean = (0.25, 0.5) if style is None else torch.std_mean(style, dim=(0, 2, 3), correction=0)
    with torch.no_grad():
        palette.weight.copy_(torch.as_tensor(deviation))
        palette.bias.copy_(torch.as_tensor(mean))
    return palette


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, with results of 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _he_initialized(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _layer(
    inputs: int, outputs: int, kernel: int, stride: int = 1, normalized: bool = True, border: Border = "zeros"
) -> list[nn.Module]:
    normalization = [nn.InstanceNorm2d(outputs, affine=True)] if normalized else []
    return [convolution(inputs, outputs, kernel, stride, border), *normalization, nn.ReLU(inplace=True)]
