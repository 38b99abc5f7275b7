"""A tile's own part of a tapped map, and its gradient as that of the tile's map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .loss_scale import LossScale
from .registry import trunk_of
from .stages import Tap, TapGradients
from .tiles import Region, Tile, tiles_of
from .trunk import Trunk


def tiles_through(trunk_key: str, layers: Sequence[str], shape: Sequence[int], side: int) -> list[Tile]:
    """The tiles of images of a shape (N, C, H, W) for the maps of some layers of a chain."""
    trunk = trunk_of(trunk_key)
    assert isinstance(trunk, Trunk), "tiles are of chains"
    names = [layer.name for layer in trunk.network.layers]
    deepest = max(map(names.index, layers))
    return tiles_of(trunk.network.layers[: deepest + 1], layers, (shape[2], shape[3]), side)


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
