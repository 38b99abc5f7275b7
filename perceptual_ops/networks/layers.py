"""Networks as data: the layers an architecture is made of, and the arithmetic of their output sizes.

An architecture is a tuple of layers, run one after the other; each layer's name says what it gives:
`conv1_1` the convolution before its ReLU, `relu1_1` after it, `pool1` the pooled map.
`output_size` works on one side of the map, H or W; 0 means that the layer has no output at that size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Pooling = Literal["max", "average", "blur"]
POOLINGS: tuple[str, ...] = get_args(Pooling)

BLUR_KERNEL = 3
BLUR_PADDING = 2


@dataclass(frozen=True)
class Conv:
    """Square convolution with a bias and zero padding."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1

    def output_size(self, size: int) -> int:
        """Side of the output for an input of side `size`."""
        return _window_count(size + 2 * self.padding, self.kernel, self.stride)


@dataclass(frozen=True)
class Relu:
    """Rectifier."""

    name: str

    def output_size(self, size: int) -> int:
        """Side of the output for an input of side `size`."""
        return size


@dataclass(frozen=True)
class Pool:
    """Square pooling without padding; `channels` is the depth of the map it pools.

    `kind` "max" and "average" are the usual ones. "blur" (Zhang 2019, arXiv 1904.11486) takes the maximum at stride 1,
    pads by reflection and downsamples with a binomial filter: far less aliasing, and H -> floor(H / 2) + 1 at 2x2.
    """

    name: str
    channels: int
    kernel: int = 2
    stride: int = 2
    kind: Pooling = "max"

    def output_size(self, size: int) -> int:
        """Side of the output for an input of side `size`."""
        if self.kind != "blur":
            return _window_count(size, self.kernel, self.stride)
        maxima = _window_count(size, self.kernel, 1)
        if maxima <= BLUR_PADDING:  # reflection needs more pixels than it adds
            return 0
        return _window_count(maxima + 2 * BLUR_PADDING, BLUR_KERNEL, self.stride)


Layer = Conv | Relu | Pool


def smallest_sizes(layers: Sequence[Layer]) -> dict[str, int]:
    """The smallest H = W of an image for which each layer has an output, by layer name.

    Every `output_size` grows with its input, so any larger image serves as well, and a deeper layer never needs less.
    """
    smallest = {}
    size = 1
    for depth, layer in enumerate(layers, start=1):
        while _output_size(layers[:depth], size) == 0:
            size += 1
        smallest[layer.name] = size
    return smallest


def _output_size(layers: Sequence[Layer], size: int) -> int:
    """Side of the last layer's output for an image of side `size`; 0 if the image is too small for any of them."""
    for layer in layers:
        size = layer.output_size(size)
        if size == 0:
            return 0
    return size


def _window_count(size: int, kernel: int, stride: int) -> int:
    """How many windows of side `kernel` fit, `stride` apart, into `size` pixels."""
    return (size - kernel) // stride + 1 if size >= kernel else 0
