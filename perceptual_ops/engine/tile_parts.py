"""A tile's own region of a map and its gradient, without the halo; and which tiles run in this process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from .loss_scale import LossScale
from .registry import trunk_by_key
from .stages import Tap, TapGradients
from .tiles import Region, Tile, tiles_of
from .trunk import Trunk


@dataclass(frozen=True)
class Share:
    """Which tiles of an image run in this process, the rest on others; by default all.

    Attributes:
        band: Rows of the image, to which the tiles belong as `tiles.own_rows` says.
        is_first: Whether this is the first process, which counts results that all have computed.
        gather: All-gather of a tensor whose shape is the same on all processes.
    """

    band: slice | None = None
    is_first: bool = True
    gather: Callable[[Tensor], list[Tensor]] | None = None

    def gathered(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """The tensors of all processes, by process; of one dtype and equal shapes."""
        if self.gather is None:
            return [list(tensors)]
        sizes = [x.numel() for x in tensors]
        of_all = self.gather(torch.cat([x.flatten() for x in tensors]))
        return [[y.view(x.shape) for x, y in zip(tensors, found.split(sizes), strict=True)] for found in of_all]

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over all processes, bit-equal on each."""
        return [reduce(torch.add, parts) for parts in zip(*self.gathered(tensors), strict=True)]


WHOLE = Share()


def chain_of(trunk_key: str) -> Trunk:
    """The trunk of a key, which must be a chain."""
    trunk = trunk_by_key(trunk_key)
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
    """The tile's own share of a layer's whole map."""
    return area_of(tile.whole(layer)) / math.prod(tile.size(layer))


def area_of(region: Region) -> int:
    """How many pixels a region has."""
    _, rows, columns = region
    return (rows.stop - rows.start) * (columns.stop - columns.start)


def own_part(tile: Tile, tap: Tap) -> Tap:
    """A tap that passes on the tile's own region of a map, without its halo."""
    return lambda layer, x: tap(layer, x[tile.part(layer)])


@dataclass
class PartGradients:
    """`TapGradients` of a tile's maps: the gradient of its own region, 0 in the halo."""

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
