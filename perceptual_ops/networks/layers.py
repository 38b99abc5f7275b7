"""Networks as data: the layers an architecture is made of, and the arithmetic of their output sizes.

An architecture is a tuple of layers, run one after the other; each layer's name says what it gives:
`conv1_1` the convolution before its ReLU, `relu1_1` after it, `pool1` the pooled map, `fire2` a module's result.
`output_size` works on one side of the map, H or W; 0 means that the layer has no output at that size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from .. import _checks as checks
from ..names import Pooling

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
class Fire:
    """SqueezeNet's module (Iandola et al. 2016, arXiv 1602.07360).

    A 1x1 convolution to `squeeze` channels and its ReLU, then a 1x1 and a 3x3 convolution of those to `expand` channels
    each and their ReLUs, side by side.
    """

    name: str
    in_channels: int
    squeeze: int
    expand: int

    @property
    def convolutions(self) -> tuple[Conv, ...]:
        """Its convolutions, called `fire2.squeeze` and so on."""
        return (
            Conv(f"{self.name}.squeeze", self.in_channels, self.squeeze, kernel=1, padding=0),
            Conv(f"{self.name}.expand1x1", self.squeeze, self.expand, kernel=1, padding=0),
            Conv(f"{self.name}.expand3x3", self.squeeze, self.expand),
        )

    def output_size(self, size: int) -> int:
        """Side of the output for an input of side `size`."""
        return size


@dataclass(frozen=True)
class Pool:
    """Square pooling without padding; `channels` is the depth of the map it pools.

    `kind` "max" and "average" are the usual ones; with `ceil`, a last window may reach beyond the map. "blur" (Zhang
    2019, arXiv 1904.11486) takes the maximum at stride 1, pads by reflection and downsamples with a binomial filter:
    far less aliasing, and H -> floor(H / 2) + 1 at 2x2; at 1x1 it is the filter alone. "l2" (DISTS, arXiv 2004.07728)
    is the root of the squares under a binomial 3x3 filter at stride 2, whatever the kernel and the stride.
    """

    name: str
    channels: int
    kernel: int = 2
    stride: int = 2
    kind: Pooling = "max"
    ceil: bool = False

    def output_size(self, size: int) -> int:
        """Side of the output for an input of side `size`."""
        if self.kind == "l2":
            return (size - 1) // 2 + 1
        if self.kind in ("max", "average"):
            count = _window_count(size + self.stride - 1 if self.ceil else size, self.kernel, self.stride)
            return min(count, (size - 1) // self.stride + 1)  # a window begins within the map
        if self.kind != "blur":
            raise checks.unknown("kind", self.kind, POOLINGS)
        maxima = _window_count(size, self.kernel, 1)
        if maxima <= BLUR_PADDING:  # reflection needs more pixels than it adds
            return 0
        return _window_count(maxima + 2 * BLUR_PADDING, BLUR_KERNEL, self.stride)


Layer = Conv | Relu | Pool | Fire


def unknown_layer(layer: object) -> TypeError:
    """The error for a layer of an unknown type."""
    return TypeError(f"layer: expected Conv, Relu, Pool or Fire; got {layer!r}; teach this function what it does")


def is_chained(layer: Layer) -> bool:
    """Whether `Trunk` can run the layer: no module of its own, and no pooling windows beyond the map."""
    return isinstance(layer, (Conv, Relu)) or (isinstance(layer, Pool) and layer.kind in POOLINGS and not layer.ceil)


def check_chained(layer: Layer) -> None:
    if not is_chained(layer):
        raise ValueError(f"layer: expected Conv, Relu or a Pool without ceil, as in a chain; got {layer!r}")


def convolutions_of(layers: Iterable[Layer]) -> tuple[Conv, ...]:
    """Every convolution of the layers, those within modules too."""
    convolutions: list[Conv] = []
    for layer in layers:
        if isinstance(layer, Conv):
            convolutions.append(layer)
        elif isinstance(layer, Fire):
            convolutions += layer.convolutions
        elif not isinstance(layer, (Relu, Pool)):
            raise unknown_layer(layer)
    return tuple(convolutions)


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
