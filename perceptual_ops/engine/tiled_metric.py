"""A metric of large images, tile by tile through all layers, in the memory of one tile.

LPIPS is a mean over pixels, of which a tile has a share. DISTS compares means and variances over all pixels: a first
pass adds up those of all tiles, a second makes gradients, of what the distance is by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .metric_head import MetricHead
from .metrics import Dists, DistsOfTile, DistsSums, Lpips
from .pair import IMAGE, Pair
from .stages import Tap, TapGradients
from .tile_parts import PartGradients, own_part, share_of, tiles_through
from .tiles import Tile
from .trunk import Tape, holder


@dataclass
class TiledMetric:
    """A chunk of pairs, whose gradients are added to `pair.by_output` and `pair.by_target`.

    Attributes:
        pair: The pairs.
        side: Of a tile, about.
    """

    pair: Pair
    side: int

    def run(self) -> Tensor:
        """The distance (L, n) of each layer."""
        if isinstance(self.pair.metric, Dists):
            return self._dists(self.pair.metric)
        assert isinstance(self.pair.metric, Lpips)
        values: dict[str, Tensor] = {}
        for tile in self._tiles():
            targets: dict[str, Tensor] = {}
            head = self.pair.head(targets, tile)
            tapes = self._forward(tile, holder(targets), head.meet)
            for layer, value in head.distances().items():
                values[layer] = values[layer] + value.double() if layer in values else value.double()
            self._backward(tile, tapes, (head.by_output, head.by_target))
        return self._of_layers(values)

    def _dists(self, metric: Dists) -> Tensor:  # (L, n)
        statistics = self._statistics(metric)
        values = {layer: metric.value_by(statistics[layer], i) for i, layer in enumerate(self.pair.layers)}
        if any(self._wanted):
            of_image = [statistics[layer] for layer in self.pair.layers]
            for tile in self._tiles():
                shares = [self._share(tile, layer) for layer in self.pair.layers]
                self._add_gradients(tile, DistsOfTile(metric.alpha, metric.beta, of_image, shares))
        return self._of_layers(values)

    def _statistics(self, metric: Dists) -> dict[str, Tensor]:  # (n, 6, C)
        """Those of every layer over the whole images."""
        sums = {layer: DistsSums() for layer in self.pair.layers}
        for tile in self._tiles():
            targets: dict[str, Tensor] = {}

            def meet(layer: str, x: Tensor, targets: dict[str, Tensor] = targets) -> bool:  # (n, C, h, w)
                of_part = metric.statistics(self.pair.layers.index(layer), x, targets.pop(layer))
                sums[layer].add(of_part, x.shape[2] * x.shape[3])
                return False

            self._forward(tile, own_part(tile, holder(targets)), own_part(tile, meet), keep=False)
            if IMAGE in sums:
                targets[IMAGE] = self._own_image(tile, self.pair.target)
                meet(IMAGE, self._own_image(tile, self.pair.output))
        return {layer: found.statistics(self.pair.entry.wide) for layer, found in sums.items()}

    def _add_gradients(self, tile: Tile, metric: DistsOfTile) -> None:
        targets: dict[str, Tensor] = {}
        indices = {layer: i for i, layer in enumerate(self.pair.layers)}
        head = MetricHead(metric, indices, targets, self._wanted)
        tapes = self._forward(tile, own_part(tile, holder(targets)), own_part(tile, head.meet))
        head.distances()  # which makes the gradients of what waits
        self._backward(tile, tapes, (PartGradients(head.by_output, tile), PartGradients(head.by_target, tile)))
        if IMAGE in indices:
            output, target = (self._own_image(tile, images) for images in (self.pair.output, self.pair.target))
            _, *found = metric.gradients([indices[IMAGE]], [output], [target], None, *self._wanted)
            for whole, made in zip((self.pair.by_output, self.pair.by_target), found, strict=True):
                for gradient in made:
                    assert whole is not None, "it is wanted"
                    whole[tile.own] += gradient

    def _forward(self, tile: Tile, of_target: Tap, of_output: Tap, keep: bool = True) -> list[Tape]:
        """Both images side by side, the target first; taps take the maps of the tile."""
        entry, layers = self.pair.entry, [layer for layer in self.pair.layers if layer != IMAGE]
        sides = (self.pair.target, of_target, self._wanted[1]), (self.pair.output, of_output, self._wanted[0])
        runs = [(entry.normalized(images[tile.image]), tap, keep and wanted) for images, tap, wanted in sides]
        return entry.forward(runs, layers)

    def _backward(self, tile: Tile, tapes: Sequence[Tape], gradients: Sequence[TapGradients]) -> None:
        """Adds the image gradients of a tile; gradients are by output and target, tapes the other way round."""
        images = self.pair.output, self.pair.target
        wholes = self.pair.by_output, self.pair.by_target
        for whole, tape, made, image in zip(wholes, reversed(tapes), gradients, images, strict=True):
            if whole is not None:
                whole[tile.image] += self.pair.entry.backward(tape, made, image[tile.image], None)

    @property
    def _wanted(self) -> tuple[bool, bool]:
        return self.pair.by_output is not None, self.pair.by_target is not None

    def _own_image(self, tile: Tile, images: Tensor) -> Tensor:
        return images[tile.own].to(self.pair.entry.wide)

    def _share(self, tile: Tile, layer: str) -> float:
        if layer != IMAGE:
            return share_of(tile, layer)
        return self.pair.output[tile.own][0, 0].numel() / math.prod(self.pair.output.shape[2:])

    def _of_layers(self, values: dict[str, Tensor]) -> Tensor:
        return torch.stack([values[layer] for layer in self.pair.layers]).to(self.pair.entry.wide)

    def _tiles(self) -> list[Tile]:
        layers = [layer for layer in self.pair.layers if layer != IMAGE]
        return tiles_through(self.pair.entry.trunk_key, layers, self.pair.output, self.side)
