"""A perceptual loss of large images, tile by tile through all layers, in the memory of one tile.

Content is a mean over pixels, of which each tile has a share. Style compares sums over all pixels: a first pass
accumulates the Grams of all tiles, a second computes the gradients; it starts with the last tile, whose maps still
exist. A backward is linear, so the image gradient is the sum over tiles, where only a tile's own region of the maps,
not its halo, contributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .. import _checks as checks
from .batching import rows_of
from .custom_op import TrunkInput, chunks_in_parts, joined
from .large_images import BAND, Readable, Writable
from .masks import ALL_PIXELS, Masks
from .perceptual_head import PerceptualHead, summed
from .style_sums import StyleSums
from .terms import NO_PART, Part, Terms
from .tile_parts import WHOLE, PartGradients, Share, own_part, rows_read, share_of, tiles_through
from .tiles import Region, Tile
from .trunk import Tape

operators: Any = torch.ops.perceptual_ops


def tiled_features(
    images: Tensor,  # (n, 3, H, W)
    trunk_input: TrunkInput,
    layers: Sequence[str],
    side: int,
) -> list[Tensor]:
    """The features (n, C, H', W') of a chunk of images, in the memory of one tile besides them."""
    maps: dict[str, Tensor] = {}
    for tile in tiles_through(trunk_input.trunk_key, layers, images.shape, side):

        def on_tap(layer: str, x: Tensor, tile: Tile = tile) -> bool:  # (n, C, h, w)
            if layer not in maps:
                shape = (*x.shape[:2], *tile.size(layer))
                maps[layer] = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
            maps[layer][tile.whole(layer)] = x[tile.part(layer)]
            return False

        trunk_input.forward([(trunk_input.normalized(images[tile.image]), on_tap, False)], layers)
    return [maps[layer] for layer in layers]


def tiled_styles(
    images: Tensor,  # (n, 3, H, W)
    trunk_input: TrunkInput,
    layers: Sequence[str],
    side: int,
    normalize: str,
    is_unit: bool,
    style_statistics: str,
) -> list[Tensor]:
    """The styles (n, R, C) of the layers of a chunk of images, see `Terms`."""
    sums = StyleSums(layers, is_unit, style_statistics)
    for tile in tiles_through(trunk_input.trunk_key, layers, images.shape, side):
        sums.add(trunk_input, images[tile.image], tile)
    return [sums.of(layer, normalize).to(trunk_input.wide) for layer in layers]


@dataclass
class _Run:
    """A tile after its forward, with its tape."""

    tile: Tile
    images: Tensor  # (n, 3, h, w)
    head: PerceptualHead
    tape: Tape
    target_tape: Tape | None


@dataclass
class TiledLoss:
    """A chunk of images whose tiles have sides of about `side` pixels.

    Attributes:
        by_output, by_target: Gradient buffers that are added to; None where not wanted.
        slopes: d loss / d Gram of the style layers (`style_parts.Measured`), where the Grams are of more than the
            images: style then has gradients here and no value.
        masks: Of the images.
        progress: Called after each tile.
        share: The tiles of this process.
        values: The terms by name (n), accumulated over tiles.
    """

    trunk_input: TrunkInput
    terms: Terms
    side: int
    output: Readable  # (n, 3, H, W)
    target: Readable | None  # (n or 1, 3, H, W)
    contents: Sequence[Tensor]  # K x (n or 1, C, H', W'), in place of the target
    grams: Sequence[Tensor]  # S x (n or 1, R, C), targets of the style layers, see style_layout.py
    by_output: Writable | None  # (n, 3, H, W)
    by_target: Writable | None  # (n, 3, H, W)
    slopes: dict[str, Tensor] | None = None
    masks: Masks = ALL_PIXELS
    progress: Callable[[Tile], None] = field(default=lambda tile: None)
    share: Share = WHOLE
    values: dict[str, Tensor] = field(init=False, default_factory=dict)

    def run(self) -> dict[str, Tensor]:
        """The terms by name, each (n)."""
        slopes, last = self.slopes, None
        if slopes is None:
            slopes, last = self._style() if self.terms.style.layers else ({}, None)
        if slopes or self.terms.content.layers:
            self._second_pass(slopes, last)
        if self.terms.variation:
            self._variation()
        if self.share.gather:
            none = self.trunk_input.scale.new_zeros(
                self.output.shape[0], dtype=checks.widest(self.trunk_input.scale.device)
            )
            of_all = self.share.summed([self.values.get(name, none) for name in self.terms.names])
            self.values = dict(zip(self.terms.names, of_all, strict=True))
        return {name: value.to(self.trunk_input.wide) for name, value in self.values.items()}

    def loss(self) -> Tensor:  # (n)
        """The loss alone."""
        return summed(self.run(), self.terms)[0]

    @property
    def passes(self) -> list[tuple[str, ...]]:
        """The layers of each pass over the tiles."""
        style, content = self.terms.style.layers, self.terms.content.layers
        if self.by_output is not None:  # the same tiles, so that the last one of the first pass can be reused
            return [self.terms.layers] * (2 if style else 1)
        return [layers for layers in (style, content) if layers]

    def reads(self, band: slice) -> slice:
        """The rows of the images that are read for the share of a band."""
        rows = rows_read(self.trunk_input.trunk_key, self.passes, self.output.shape, self.side, band)
        if not self.terms.variation or band.start == band.stop:
            return rows
        last = min(band.stop + 1, self.output.shape[2])
        return slice(min(band.start, rows.start), max(last, rows.stop))

    def _style(self) -> tuple[dict[str, Tensor], _Run | None]:
        """The style values; where a gradient is wanted, the slopes (`Measured`), and the last tile.

        Features of unit length are not kept for their slopes, so they have to be computed again.
        """
        sums, run, tiles = (
            StyleSums(self.terms.style.layers, self.terms.is_of_unit_features, self.terms.style_statistics),
            None,
            self._cut(self.passes[0]),
        )
        is_kept = self.by_output is not None and not self.terms.is_of_unit_features
        for tile in tiles:
            masks = self.masks.in_tile(tile)
            if is_kept and tile is tiles[-1]:
                run = self._forward(tile, replace(self.terms, variation=0.0), {}, sums)
            else:
                sums.add(self.trunk_input, self.output[tile.image], tile, masks)
            self.progress(tile)
        sums.join(self.share, self.output.shape[0], self.terms, self.grams, self.masks.guides)
        values, slopes = sums.values(self.terms, self.grams, self.trunk_input.wide)
        if self.share.is_first:  # all know them
            self._add(values)
        if run:
            run.head.take_slopes(slopes)
        return (slopes, run) if self.by_output is not None else ({}, None)

    def _second_pass(self, slopes: dict[str, Tensor], last: _Run | None) -> None:
        """Content, and the gradients of both parts; the last tile's forward is reused."""
        style = self.terms.style if slopes else NO_PART
        terms = replace(self.terms, style=style, variation=0.0)
        tiles = self._cut(terms.layers)
        if last:
            self._backward(last)
            self.progress(tiles.pop())
        for tile in tiles:
            self._backward(self._forward(tile, terms, slopes))
            self.progress(tile)

    def _forward(self, tile: Tile, terms: Terms, slopes: dict[str, Tensor], sums: StyleSums | None = None) -> _Run:
        """Runs a tile and adds its style maps to the sums, if given."""
        trunk_input, images = self.trunk_input, self.output[tile.image]
        wanted = self.by_output is not None, self.by_target is not None
        contents, target_tape = self._contents(tile, terms.content.layers)
        masks = self.masks.in_tile(tile)
        own = terms if masks.content else replace(terms, content=_of_tile(terms.content, tile))
        head = PerceptualHead(own, trunk_input.wide, contents, [], *wanted, slopes, masks=masks)

        def on_tap(layer: str, x: Tensor) -> bool:  # (n, C, h, w)
            if sums and layer in terms.style.layers:
                sums.add_map(layer, x, masks.guides)
            return head.on_tap(layer, x)

        (tape,) = trunk_input.forward(
            [(trunk_input.normalized(images), own_part(tile, on_tap), wanted[0])], terms.layers
        )
        if terms.content.layers:
            of_tile = head.terms()
            self._add(of_tile if masks.content else _whole_values(of_tile, terms.content, tile))
        return _Run(tile, images, head, tape, target_tape)

    def _backward(self, run: _Run) -> None:
        """Adds a tile's gradients."""
        trunk_input, tile = self.trunk_input, run.tile
        if self.by_target is not None and self.target is not None and run.target_tape is not None:
            gradients = PartGradients(run.head.by_target, tile)
            self.by_target[tile.image] += trunk_input.backward(
                run.target_tape, gradients, self.target[tile.image], None
            )
        if self.by_output is not None:
            self.by_output[tile.image] += trunk_input.backward(
                run.tape, PartGradients(run.head, tile), run.images, None
            )

    def _contents(self, tile: Tile, layers: Sequence[str]) -> tuple[list[Tensor], Tape | None]:
        """The targets (n or 1, C, h, w) of a tile's own regions, and the tape of the target image."""
        if self.target is None:
            return [x[tile.whole(layer)] for layer, x in zip(layers, self.contents, strict=True)], None
        maps, tape = self.trunk_input.features(self.target[tile.image], layers, self.by_target is not None)
        return [x[tile.part(layer)] for layer, x in zip(layers, maps, strict=True)], tape

    def _variation(self) -> None:
        """Band by band: each includes the first row of the next, whose own pairs are subtracted again."""
        height = self.output.shape[2]
        rows = self.share.band or slice(0, height)
        for first in range(rows.start, rows.stop, BAND):
            last = min(first + BAND, rows.stop)
            self._vary((..., slice(first, min(last + 1, height)), slice(None)), 1.0)
            if last < height:
                self._vary((..., slice(last, last + 1), slice(None)), -1.0)

    def _vary(self, rows: Region, sign: float) -> None:
        """Adds or subtracts the weighted total variation of some rows."""
        weight, band = sign * self.terms.variation, self.output[rows]
        if self.by_output is None:
            value = operators.total_variation(band, "l2_squared")
        else:
            value, gradient = operators.total_variation_with_gradient(band, "l2_squared")
            self.by_output[rows] += gradient.to(self.trunk_input.wide).mul_(weight)
        self._add({"tv": weight * value})

    def _cut(self, layers: Sequence[str]) -> list[Tile]:
        return tiles_through(self.trunk_input.trunk_key, layers, self.output.shape, self.side, self.share.band)

    def _add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            known = self.values.get(name)
            self.values[name] = value.to(checks.widest(value.device)) if known is None else known.add_(value)


def tiled_losses(
    trunk_input: TrunkInput,
    terms: Terms,
    side: int,
    images: tuple[Tensor, Tensor | None],
    contents: Sequence[Tensor],
    grams: Sequence[Tensor],
    gradients: tuple[Tensor, Tensor],
    masks: Masks,
) -> tuple[Tensor, Tensor]:
    """The loss (N) and its terms (T, N).

    Args:
        trunk_input, terms, side, contents, grams, masks: See `TiledLoss`, of all samples.
        images: Output (N, 3, H, W) and target (N or 1, 3, H, W).
        gradients: With respect to both; filled in place, empty where they are not wanted.
    """
    (output, target), of_chunks = images, []
    for rows, (by_output, by_target) in chunks_in_parts(trunk_input, output, *gradients):
        own_target = None if target is None else rows_of([target], rows)[0]
        own = rows_of(contents, rows), rows_of(grams, rows)
        tiled = TiledLoss(trunk_input, terms, side, output[rows], own_target, *own, by_output, by_target)
        tiled.masks = masks.rows(rows)
        of_chunks.append(summed(tiled.run(), terms))
    losses, values = zip(*of_chunks, strict=True)
    return joined(list(losses)), joined(list(values), dim=1)


def _of_tile(content: Part, tile: Tile) -> Part:
    """The content part of a tile, its weights times the tile's share of the mean."""
    if content.distance == "sse":
        return content
    weights = zip(content.layers, content.weights, strict=True)
    return replace(content, weights=tuple(weight * share_of(tile, layer) for layer, weight in weights))


def _whole_values(of_tile: dict[str, Tensor], content: Part, tile: Tile) -> dict[str, Tensor]:
    """A tile's content values as shares of the whole image's."""
    of_content = {"content": of_tile["content"]}
    for layer in content.layers:
        share = 1.0 if content.distance == "sse" else share_of(tile, layer)
        of_content[f"content/{layer}"] = share * of_tile[f"content/{layer}"]
    return of_content
