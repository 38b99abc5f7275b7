"""A tile's own part of a tapped map, and its gradient as that of the tile's map; whose tiles are run here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from .loss_scale import LossScale
from .registry import trunk_of
from .stages import Tap, TapGradients
from .tiles import Region, Tile, tiles_of
from .trunk import Trunk


@dataclass(frozen=True)
class Share:
    """Which tiles of an image are run here, where other processes run the rest; by default all are.

    Attributes:
        band: Rows of the image, to which the tiles belong as `tiles.own_rows` says.
        is_first: Whether this process is the first of them, where what all have found counts.
        gather: Of a tensor, whose shape is the same everywhere, those of all processes, in the same order everywhere.
    """

    band: slice | None = None
    is_first: bool = True
    gather: Callable[[Tensor], list[Tensor]] | None = None

    def gathered(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Those of all processes, by process; of one dtype, and of the same shapes everywhere."""
        if self.gather is None:
            return [list(tensors)]
        sizes = [x.numel() for x in tensors]
        of_all = self.gather(torch.cat([x.flatten() for x in tensors]))
        return [[y.view(x.shape) for x, y in zip(tensors, found.split(sizes), strict=True)] for found in of_all]

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Their sums over all processes, the same bits everywhere."""
        return [reduce(torch.add, parts) for parts in zip(*self.gathered(tensors), strict=True)]


WHOLE = Share()


def chain_of(trunk_key: str) -> Trunk:
    """The trunk with a key, which is one that tiles go through."""
    trunk = trunk_of(trunk_key)
    assert isinstance(trunk, Trunk), "tiles are of chains"
    return trunk


def tiles_through(
    trunk_key: str, layers: Sequence[str], shape: Sequence[int], side: int, band: slice | None = None
) -> list[Tile]:
    """The tiles of images (N, C, H, W), or of a band of their rows, for the maps of some layers of a chain."""
    chain = chain_of(trunk_key).network.layers
    deepest = max(map([layer.name for layer in chain].index, layers))
    return tiles_of(chain[: deepest + 1], layers, (shape[2], shape[3]), side, band)


def rows_read(trunk_key: str, passes: Iterable[Sequence[str]], shape: Sequence[int], side: int, band: slice) -> slice:
    """The rows of images that the tiles of a band read in all passes, each for the maps of some layers."""
    read = [tile.rows.image for layers in passes for tile in tiles_through(trunk_key, layers, shape, side, band)]
    if not read:
        return slice(band.start, band.start)
    return slice(min(rows.start for rows in read), max(rows.stop for rows in read))


def share_of(tile: Tile, layer: str) -> float:
    """How much of a layer's map is the tile's own, of the whole image's."""
    return area_of(tile.whole(layer)) / math.prod(tile.size(layer))


def area_of(region: Region) -> int:
    """How many pixels a region has."""
    _, rows, columns = region
    return (rows.stop - rows.start) * (columns.stop - columns.start)


def own_part(tile: Tile, tap: Tap) -> Tap:
    """A tap that hands on what of a map is the tile's own."""
    return lambda layer, x: tap(layer, x[tile.part(layer)])


@dataclass
class PartGradients:
    """`TapGradients` of a tile's maps: those of its own parts, and 0 around them."""

    own: TapGradients
    tile: Tile

    @property
    def scale(self) -> LossScale | None:
        return self.own.scale

    @scale.setter
    def scale(self, scale: LossScale | None) -> None:
        self.own.scale = scale

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        part = self.own.gradient(layer, scale)
        whole = torch.empty(
            (*part.shape[:2], *self.tile.own_size(layer)),
            dtype=part.dtype, device=part.device, memory_format=torch.channels_last,
        ).zero_()  # fmt: skip
        whole[self.tile.part(layer)] = part
        return whole

    def bound(self, layer: str) -> Tensor:
        return self.own.bound(layer)
