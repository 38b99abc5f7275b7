"""Tiles of a large image for a chain, or for its first layers, whose maps are the largest.

A tile is read with its halo (what its windows reach of the neighbours), and its maps are cropped to the region that is
exact: up to rounding, they are those of the whole image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType

from .. import _checks as checks
from ..networks.layers import BLUR_PADDING, POOLINGS, Conv, Layer, Pool, check_chained

Region = tuple[EllipsisType, slice, slice]

# Strides of the deepest layer along a side of a tile: even the last tile, at half of that, has some of every map.
MIN_STRIDES = 4
SHALLOW = 4  # the stride at which maps are small and halos not yet large


@dataclass(frozen=True)
class Span:
    """One side of a tile.

    Attributes:
        image: Its pixels.
        own: Those of them that belong to no other tile, without the halo.
        whole: Its own region of each layer, in the map of the whole image.
        part: The same region in the map of the tile alone.
        lengths: The length of each layer's map, of the whole image and of the tile alone.
    """

    image: slice
    own: slice
    whole: Mapping[str, slice]
    part: Mapping[str, slice]
    lengths: Mapping[str, tuple[int, int]]

    def within(self, outer: Span) -> Span:
        """The same of a tile that is cut from another: its part of each layer is what is also that of the other, and
        lies in the layer's map of the other's whole image.
        """
        part, within = {}, {}
        for layer, whole in self.whole.items():
            first = min(max(whole.start, outer.part[layer].start), whole.stop)
            last = max(min(whole.stop, outer.part[layer].stop), first)
            shift = self.part[layer].start - whole.start
            part[layer] = slice(first + shift, last + shift)
            shift = outer.whole[layer].start - outer.part[layer].start
            within[layer] = slice(first + shift, last + shift)
        lengths = {layer: (outer.lengths[layer][0], length) for layer, (_, length) in self.lengths.items()}
        return replace(self, whole=within, part=part, lengths=lengths)


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image; regions index tensors (N, C, H, W)."""

    rows: Span
    columns: Span

    @property
    def image(self) -> Region:
        """The tile with its halo, in the image."""
        return ..., self.rows.image, self.columns.image

    @property
    def own(self) -> Region:
        """The tile without its halo, in the image."""
        return ..., self.rows.own, self.columns.own

    @property
    def own_part(self) -> Region:
        """The tile without its halo, in the tile's own image."""
        rows, columns = (
            slice(span.own.start - span.image.start, span.own.stop - span.image.start)
            for span in (self.rows, self.columns)
        )
        return ..., rows, columns

    def whole(self, layer: str) -> Region:
        """Its own region of a layer, in the map of the whole image."""
        return ..., self.rows.whole[layer], self.columns.whole[layer]

    def part(self, layer: str) -> Region:
        """Its own region of a layer, in the map of the tile alone."""
        return ..., self.rows.part[layer], self.columns.part[layer]

    def size(self, layer: str) -> tuple[int, int]:
        """(H, W) of the layer's map of the whole image."""
        return self.rows.lengths[layer][0], self.columns.lengths[layer][0]

    def own_size(self, layer: str) -> tuple[int, int]:
        """(H, W) of the layer's map of the tile alone."""
        return self.rows.lengths[layer][1], self.columns.lengths[layer][1]

    def within(self, outer: Tile) -> Tile:
        """This tile of another one's image: its parts are those that belong to both, of the other's whole image."""
        return replace(self, rows=self.rows.within(outer.rows), columns=self.columns.within(outer.columns))


def cut_of(layers: Sequence[Layer], wanted: Iterable[str]) -> str | None:
    """The pooling up to which tiling pays: the deepest with a stride up to `SHALLOW`, if later layers are wanted."""
    cut, stride = None, 1
    for depth, layer in enumerate(layers, start=1):
        stride *= _window(layer)[0]
        if isinstance(layer, Pool) and stride <= SHALLOW:
            cut = depth
    beyond = {layer.name for layer in layers[cut:]}
    return layers[cut - 1].name if cut and not beyond.isdisjoint(wanted) else None


def tiles_of(
    layers: Sequence[Layer], wanted: Iterable[str], size: tuple[int, int], side: int, band: slice | None = None
) -> list[Tile]:
    """The tiles of an image.

    Args:
        layers: The chain, from the image to the last layer that is run in tiles.
        wanted: Names of the layers among them whose maps are wanted.
        size: (H, W) of the image.
        side: Of a tile, about, without its halo.
        band: Rows of the image of whose own these tiles are, which may be none; see `own_rows`. Default: of all.
    """
    names = frozenset(wanted)
    rows, columns = (_spans(layers, names, length, side, part) for length, part in zip(size, (band, None), strict=True))
    return [Tile(*pair) for pair in itertools.product(rows, columns)]


def own_rows(layers: Sequence[Layer], wanted: Iterable[str], height: int, band: slice) -> slice:
    """The rows of an image that are a band's own, where bands make up the image.

    Those of a pixel of the deepest map are the band's in which they begin, so that no map's pixel is of two bands. A
    band in which none begins has none of its own.
    """
    stride, names = _stride(layers), frozenset(wanted)
    least = _last_start(layers, names, height, stride)
    start, stop = (-(-row // stride) * stride for row in (band.start, band.stop))
    return slice(*(row if row <= least else height for row in (start, stop)))


def _spans(layers: Sequence[Layer], wanted: frozenset[str], length: int, side: int, band: slice | None) -> list[Span]:
    stride, whole = _stride(layers), own_rows(layers, wanted, length, band or slice(0, length))
    if whole.start == whole.stop:
        return []
    own_length = whole.stop - whole.start
    count = max(1, round(own_length / side))
    step = max(math.ceil(own_length / count / stride), MIN_STRIDES) * stride
    least = _last_start(layers, wanted, length, stride)
    # The last tile takes the remainder.
    starts = [x for x in range(whole.start, max(whole.start + 1, whole.stop - step // 2), step) if x <= least]
    stops = [*starts[1:], whole.stop]
    own = [_own(layers, length, start, stop) for start, stop in zip(starts, stops, strict=True)]
    return [
        _span(layers, length, slice(*_needed(layers, wanted, length, stride, rows)), slice(start, stop), rows)
        for start, stop, rows in zip(starts, stops, own, strict=True)
    ]


def _own(layers: Sequence[Layer], length: int, start: int, stop: int) -> dict[str, slice]:
    """What belongs of each layer to the pixels from start to stop, multiples of the stride but for the image's end."""
    own, scale = {}, 1
    for layer, end in zip(layers, _lengths(layers, length)[1:], strict=True):
        scale *= _window(layer)[0]
        own[layer.name] = slice(min(start // scale, end), end if stop >= length else min(stop // scale, end))
    return own


def _last_start(layers: Sequence[Layer], wanted: frozenset[str], length: int, stride: int) -> int:
    """Where the last tile may start: convolutions without padding may leave the last pixels no part of a map."""
    for start in range((length - 1) // stride * stride, 0, -stride):
        own = _own(layers, length, start, length)
        if all(own[layer].stop > own[layer].start for layer in wanted):
            return start
    return 0


def _stride(layers: Sequence[Layer]) -> int:
    return math.prod(_window(layer)[0] for layer in layers)


def _needed(
    layers: Sequence[Layer], wanted: frozenset[str], length: int, stride: int, own: Mapping[str, slice]
) -> tuple[int, int]:
    """The pixels that the wanted layers' own parts are made of; the first is a multiple of the stride."""
    first = last = None  # the range needed of each map, from the deepest layer to the image
    for layer, end in zip(reversed(layers), reversed(_lengths(layers, length)[:-1]), strict=True):
        if layer.name in wanted:
            rows = own[layer.name]
            first = rows.start if first is None else min(first, rows.start)
            last = rows.stop if last is None else max(last, rows.stop)
        if first is not None and last is not None:
            step, before, after = _window(layer)
            first, last = max(0, first * step - before), min(end, (last - 1) * step + after + 1)
    assert first is not None and last is not None, "a layer is wanted"
    return first // stride * stride, last  # or the windows of the tile would not be those of the image


def _span(layers: Sequence[Layer], length: int, image: slice, pixels: slice, own: Mapping[str, slice]) -> Span:
    part, scale, begin = {}, 1, image.start
    for layer in layers:
        scale *= _window(layer)[0]
        rows = own[layer.name]
        part[layer.name] = slice(rows.start - begin // scale, rows.stop - begin // scale)
    both = zip(_lengths(layers, length)[1:], _lengths(layers, image.stop - begin)[1:], strict=True)
    return Span(image, pixels, own, part, dict(zip(own, both, strict=True)))


def _lengths(layers: Sequence[Layer], length: int) -> list[int]:
    """Of an image and of each layer's map."""
    return list(itertools.accumulate(layers, lambda length, layer: layer.output_size(length), initial=length))


def _window(layer: Layer) -> tuple[int, int, int]:
    """Stride and reach of a layer's window: output i reads i * stride - before to i * stride + after."""
    check_chained(layer)
    if isinstance(layer, Conv):
        return layer.stride, layer.padding, layer.kernel - 1 - layer.padding
    if not isinstance(layer, Pool):
        return 1, 0, 0
    if layer.kind == "blur":
        return layer.stride, BLUR_PADDING, layer.kernel - 1
    if layer.kind == "l2":
        return 2, 1, 1
    if layer.kind in ("max", "average"):
        return layer.stride, 0, layer.kernel - 1
    raise checks.unknown("kind", layer.kind, POOLINGS)
