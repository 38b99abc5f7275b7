"""VGG11, 13, 16 and 19 (Simonyan and Zisserman 2014, arXiv 1409.1556) as data, in torchvision's layer order.

Five blocks of 3x3 convolutions; relu3_2 is the second ReLU of the third block, pool3 closes that block.
"""

from __future__ import annotations

from ..names import Architecture, VggName
from .layers import Conv, Layer, Pool, Relu

BLOCK_CHANNELS = (64, 128, 256, 512, 512)
BLOCK_CONVOLUTIONS: dict[VggName, tuple[int, ...]] = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def _layers(block_convolutions: tuple[int, ...]) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    in_channels = 3
    for block, (channels, convolutions) in enumerate(zip(BLOCK_CHANNELS, block_convolutions, strict=True), start=1):
        for index in range(1, convolutions + 1):
            layers += [Conv(f"conv{block}_{index}", in_channels, channels), Relu(f"relu{block}_{index}")]
            in_channels = channels
        layers.append(Pool(f"pool{block}", channels))
    return tuple(layers)


VGG: dict[Architecture, tuple[Layer, ...]] = {name: _layers(blocks) for name, blocks in BLOCK_CONVOLUTIONS.items()}
