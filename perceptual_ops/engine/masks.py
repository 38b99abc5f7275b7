"""Masks of images, resized to layers' maps by area averages, and cropped to tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import _checks as checks
from .. import ops
from .antialiasing import area_average
from .metrics import Lpips, LpipsOfPixels, Metric
from .tiles import Tile

if TYPE_CHECKING:
    from typing_extensions import Self

STRETCH = 4  # how many times as high as wide the pixels of a map may be, or as wide as high


@dataclass(frozen=True)
class LayerMask:
    """A mask at the map of a layer, or at a part of it.

    Attributes:
        pixels: (n or 1, 1, h, w), in [0, 1].
        total: Their sum over the whole map, (n or 1, 1, 1, 1).
    """

    pixels: Tensor
    total: Tensor

    @property
    def shares(self) -> Tensor:  # (n or 1, 1, h, w)
        """Each pixel's share of the mean over the map; 0 for an empty mask."""
        return self.pixels / torch.where(self.total == 0, 1, self.total)

    @property
    def squares(self) -> Tensor:  # (n or 1, 1, 1)
        """The sum of the squares of the pixels that are here."""
        return self.pixels.square().sum((2, 3))[..., None]


def at_layer(mask: Tensor, layer: str, height: int, width: int) -> LayerMask:
    """A mask (n or 1, 1, H, W) of images, of the accumulation dtype, at the map of a layer."""
    # A program is made for sizes that are not known.
    if not ops.makes_program():
        rows, columns = mask.shape[2] * width, mask.shape[3] * height
        if rows > STRETCH * columns or columns > STRETCH * rows:
            raise ValueError(
                f"mask: expected layers whose features are maps of the image, (N, C, H, W), got {height} x {width} "
                f"pixels of {layer} for an image of {mask.shape[2]} x {mask.shape[3]}; tokens and features of clips "
                "have no mask"
            )
    pixels = area_average(mask, height, width)
    return LayerMask(pixels, pixels.sum((1, 2, 3), keepdim=True))


@dataclass(frozen=True)
class Mask:
    """A mask of a chunk of images.

    Attributes:
        pixels: (n or 1, 1, H, W), in [0, 1], of the accumulation dtype.
        tile: The maps are cropped to this tile's own region; None: they are of the whole images.
    """

    pixels: Tensor
    tile: Tile | None = None
    _sizes: dict[tuple[int, int], LayerMask] = field(default_factory=dict)

    def rows(self, rows: slice) -> Mask:
        """That of some of the images."""
        return self if self.pixels.shape[0] == 1 else Mask(self.pixels[rows])

    def in_tile(self, tile: Tile) -> Mask:
        """The mask for a tile's own region."""
        return replace(self, tile=tile)

    def of(self, layer: str, x: Tensor) -> LayerMask:
        """At the map x (n, C, h, w) of a layer."""
        if self.tile is None:
            return self.at(layer, *x.shape[2:])
        whole = self.at(layer, *self.tile.size(layer))
        return replace(whole, pixels=whole.pixels[self.tile.whole(layer)])

    def at(self, layer: str, height: int, width: int) -> LayerMask:
        """At the whole map of a layer, of that size."""
        if (height, width) not in self._sizes:
            self._sizes[height, width] = at_layer(self.pixels, layer, height, width)
        return self._sizes[height, width]


@dataclass(frozen=True)
class Masks:
    """The pixels that a perceptual loss compares.

    Attributes:
        content: Of the content part; None: all pixels.
        guides: Of the style part, one for each of its regions; none: all pixels.
    """

    content: Mask | None = None
    guides: Sequence[Mask] = ()

    @classmethod
    def of(cls, mask: Tensor | None, guides: Sequence[Tensor]) -> Self:
        """By their pixels."""
        return cls(None if mask is None else Mask(mask), [Mask(guide) for guide in guides])

    def rows(self, rows: slice) -> Masks:
        """Those of some of the images."""
        return Masks(self.content and self.content.rows(rows), [guide.rows(rows) for guide in self.guides])

    def in_tile(self, tile: Tile) -> Masks:
        """The masks for a tile's own region."""
        return Masks(self.content and self.content.in_tile(tile), [guide.in_tile(tile) for guide in self.guides])


ALL_PIXELS = Masks()


def weighed(metric: Metric, layers: Sequence[str], mask: Mask | None, tile: Tile | None = None) -> Metric:
    """The metric of masked images, or of a tile's maps, whose distances add up to those of the whole images.

    By weights of pixels, so that a tile's maps are not cropped: the halo has weight 0.

    Args:
        metric: The one over all pixels, returned as it is without mask and tile.
        layers: Their names, by number.
        mask: Of the images.
        tile: The tile whose maps are compared.
    """
    if mask is None and tile is None:
        return metric
    assert isinstance(metric, Lpips), "a mean over pixels, whose shares add up"

    def weights_of(i: int, x: Tensor) -> Tensor:  # (n, C, h, w) -> (n or 1, 1, h, w)
        if tile is None:
            assert mask is not None
            return mask.of(layers[i], x).shares
        of_own = _own_weights(mask, tile, layers[i], x)
        weights = of_own.new_zeros((of_own.shape[0], 1, *x.shape[2:]))
        weights[tile.part(layers[i])] = of_own
        return weights

    return LpipsOfPixels(metric.channel_weights, metric.eps, metric.eps_inside, weights_of)


def _own_weights(mask: Mask | None, tile: Tile, layer: str, x: Tensor) -> Tensor:  # (n or 1, 1, h, w) or (1, 1, 1, 1)
    """The weights in a tile's own region of a map."""
    if mask is not None:
        return mask.in_tile(tile).of(layer, x).shares
    share = 1 / math.prod(tile.size(layer))
    return torch.full((1, 1, 1, 1), share, dtype=checks.accumulator_dtype(x), device=x.device)
