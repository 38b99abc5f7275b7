"""Styles accumulated over parts: tiles of images, chunks of a clip's frames, bands on several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import torch
from torch import Tensor

from .. import _checks as checks
from .custom_op import TrunkInput
from .masks import ALL_PIXELS, Mask, Masks
from .style_parts import StyleSum, by_sums, no_sum, style_sums
from .terms import Terms
from .tile_parts import Share, own_part
from .tiles import Tile
from .unit_map import UnitMap


@dataclass
class StyleSums:
    """Raw Grams and channel moments of maps, accumulated over tiles in fp64.

    Attributes:
        layers: The style layers.
        is_unit: Whether features are normalised to unit length first.
        style_statistics: See `Terms`.
        of_clip: Whether images are frames of one clip, whose style is over all of them.
    """

    layers: Sequence[str]
    is_unit: bool
    style_statistics: str
    of_clip: bool = False
    _sums: dict[str, list[StyleSum]] = field(init=False, default_factory=dict)  # of each region, one of a clip

    def add(self, trunk_input: TrunkInput, images: Tensor, tile: Tile | None = None, masks: Masks = ALL_PIXELS) -> None:
        """Runs images (n, 3, h, w), or those of a tile, and adds their maps; masks are of the images."""

        def on_tap(layer: str, x: Tensor) -> bool:  # (n, C, h, w)
            self.add_map(layer, x, masks.guides)
            return False

        tap = own_part(tile, on_tap) if tile else on_tap
        trunk_input.forward([(trunk_input.normalized(images), tap, False)], self.layers)

    def add_map(self, layer: str, x: Tensor, guides: Sequence[Mask]) -> None:  # (n, C, h, w)
        """Adds a map."""
        own = UnitMap(x).map if self.is_unit else x
        sums = [sum.wide() for sum in style_sums(layer, own, guides, self.style_statistics)]
        sums = [sum.of_clips(x.shape[0]) for sum in sums] if self.of_clip else sums
        before = self._sums.get(layer)
        self._sums[layer] = [a + b for a, b in zip(before, sums, strict=True)] if before else sums

    def join(self, share: Share, samples: int, terms: Terms, targets: Sequence[Tensor], guides: Sequence[Mask]) -> None:
        """Sums over the tiles of all processes.

        Args:
            samples: n, also where this process has no tile.
            targets: Of the style layers, (n or 1, R, C), region by region.
            guides: Of the regions, if there are some.
        """
        if share.gather is None:
            return
        none = {
            layer: [no_sum(style, samples, self.style_statistics) for style in styles]
            for layer, styles in terms.by_layer(targets).items()
        }
        own = [sum for layer in self.layers for sum in self._sums.get(layer, none[layer])]
        of_all = share.gathered([x for sum in own for x in (sum.gram, sum.pixels_of(samples), sum.moments)])
        parts = [_sums_of(tensors, bool(guides)) for tensors in of_all]
        joined = iter([reduce(add, sums) for sums in zip(*parts, strict=True)])
        for layer in self.layers:
            self._sums[layer] = [next(joined) for _ in none[layer]]

    def of(self, layer: str, normalize: str) -> Tensor:
        """The style (n, R, C) of all tiles, fp64, where there are no regions."""
        (sum,) = self._sums[layer]
        return sum.style(normalize)

    def values(
        self, terms: Terms, targets: Sequence[Tensor], wide: torch.dtype
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The style values (n) by name, and the slopes of each layer (`Measured`).

        Args:
            targets: S x (n or 1, R, C), of the style layers, region by region.
            wide: Of the values.
        """
        values, slopes = dict[str, Tensor](), dict[str, Tensor]()
        for layer, of_layer in terms.by_layer([target.to(wide) for target in targets]).items():
            measured = by_sums(terms, layer, self._sums[layer], of_layer)
            loss, value = (x.to(checks.widest(x.device)) for x in (measured.loss, measured.values[layer]))
            values["style"] = values["style"] + loss if values else loss
            values[f"style/{layer}"] = value
            slopes |= measured.slopes
        return values, slopes


def _sums_of(tensors: Sequence[Tensor], is_guided: bool) -> list[StyleSum]:
    """Those of a process by their Grams, pixels and moments in turn."""
    triples = zip(tensors[::3], tensors[1::3], tensors[2::3], strict=True)
    return [StyleSum(gram, x if is_guided else int(x[0]), moments) for gram, x, moments in triples]
