"""A metric of large images, tile by tile through all layers, in the memory of one tile.

LPIPS is a mean over pixels, of which each tile has a share. DISTS compares means and variances over all pixels: a first
pass merges those of all tiles, a second computes the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from .. import _checks as checks
from .custom_op import TrunkInput
from .large_images import Readable, Writable
from .masks import Mask, weighed
from .metric_head import MetricHead
from .metrics import Dists, DistsOfTile, DistsSums, Metric
from .pair import IMAGE
from .stages import Tap, TapGradients
from .tile_parts import WHOLE, PartGradients, Share, area_of, own_part, rows_read, share_of, tiles_through
from .tiled_pair import TiledPair
from .tiles import Tile
from .trunk import Tape, holder


@dataclass
class TiledMetric:
    """A chunk of pairs whose tiles have sides of about `side` pixels.

    Attributes:
        layers: See `MetricSettings`.
        by_output, by_target: Gradient buffers that are added to; None where not wanted.
        mask: For LPIPS, that of the pixels compared.
        progress: Called after each tile.
        share: The tiles of this process.
    """

    trunk_input: TrunkInput
    metric: Metric
    layers: Sequence[str]
    side: int
    output: Readable  # (n, 3, H, W)
    target: Readable  # (n or 1, 3, H, W)
    by_output: Writable | None  # (n, 3, H, W)
    by_target: Writable | None  # (n, 3, H, W)
    mask: Mask | None = None
    progress: Callable[[Tile], None] = field(default=lambda tile: None)
    share: Share = WHOLE

    def loss(self) -> Tensor:  # (n)
        """The distance, all layers together."""
        return self.run().sum(0)

    @property
    def passes(self) -> list[tuple[str, ...]]:
        """The layers of each pass over the tiles."""
        count = 2 if isinstance(self.metric, Dists) and any(self._wanted) else 1
        return count * [tuple(layer for layer in self.layers if layer != IMAGE)]

    def reads(self, band: slice) -> slice:
        """The rows of the images that are read for the share of a band."""
        return rows_read(self.trunk_input.trunk_key, self.passes, self.output.shape, self.side, band)

    def run(self) -> Tensor:
        """The distance (L, n) of each layer."""
        if isinstance(self.metric, Dists):
            return self._dists(self.metric)
        return self._of_all([self._by_pixels(tile) for tile in self._tiles()])

    def _by_pixels(self, tile: Tile) -> Tensor:  # (L, n)
        """A tile's share of the distances; its first layers run in nested tiles."""
        pair = self._read(tile)
        if shallow := self.trunk_input.tiles(pair[0], self.layers):
            by_output, by_target = (
                torch.zeros_like(pair[0], dtype=self.trunk_input.wide) if wanted else None for wanted in self._wanted
            )
            settings = self.trunk_input, self.metric, self.layers, *shallow
            distances = TiledPair(*settings, *pair, by_output, by_target, self.mask, tile).run()
            for whole, made in ((self.by_output, by_output), (self.by_target, by_target)):
                if whole is not None and made is not None:
                    whole[tile.image] += made
            return distances
        targets: dict[str, Tensor] = {}
        head = MetricHead(weighed(self.metric, self.layers, self.mask, tile), self._indices, targets, self._wanted)
        tapes = self._forward(pair, holder(targets), head.on_tap)
        values = head.distances()
        self._backward(tile, pair, tapes, (head.by_output, head.by_target))
        return torch.stack([values[layer] for layer in self.layers])

    def _dists(self, metric: Dists) -> Tensor:  # (L, n)
        statistics = self._statistics(metric)
        values = {layer: metric.value_by(statistics[layer], i) for i, layer in enumerate(self.layers)}
        if any(self._wanted):
            of_image = [statistics[layer] for layer in self.layers]
            for tile in self._tiles():
                shares = [self._share(tile, layer) for layer in self.layers]
                self._add_gradients(tile, DistsOfTile(metric.alpha, metric.beta, of_image, shares))
        of_layers = torch.stack([values[layer] for layer in self.layers])
        return self._of_all([of_layers] if self.share.is_first else [])  # all know them

    def _statistics(self, metric: Dists) -> dict[str, Tensor]:  # (n, 6, C)
        """The statistics of every layer over the whole images."""
        sums = {layer: DistsSums() for layer in self.layers}
        for tile in self._tiles():
            targets: dict[str, Tensor] = {}

            def on_tap(layer: str, x: Tensor, targets: dict[str, Tensor] = targets) -> bool:  # (n, C, h, w)
                of_part = metric.statistics(self._indices[layer], x, targets.pop(layer))
                sums[layer].add(of_part, x.shape[2] * x.shape[3])
                return False

            pair = self._read(tile)
            self._forward(pair, own_part(tile, holder(targets)), own_part(tile, on_tap), keep=False)
            if IMAGE in sums:
                output, targets[IMAGE] = self._own_images(tile, pair)
                on_tap(IMAGE, output)
        of_all = self._joined(metric, sums) if self.share.gather else sums
        return {layer: found.statistics(self.trunk_input.wide) for layer, found in of_all.items()}

    def _joined(self, metric: Dists, sums: dict[str, DistsSums]) -> dict[str, DistsSums]:
        """The statistics merged over all processes."""
        like = self.trunk_input.scale.new_empty(0, dtype=checks.widest(self.trunk_input.scale.device))
        counts = like.new_tensor([found.pixels for found in sums.values()])
        none = [like.new_zeros((self.output.shape[0], 6, len(alpha))) for alpha in metric.alpha]
        parts = [
            found.statistics(like.dtype) if found.pixels else zeros
            for found, zeros in zip(sums.values(), none, strict=True)
        ]
        joined = {layer: DistsSums() for layer in sums}
        for pixels, *statistics in self.share.gathered([counts, *parts]):
            for found, part, count in zip(joined.values(), statistics, pixels.tolist(), strict=True):
                if count:
                    found.add(part, int(count))
        return joined

    def _add_gradients(self, tile: Tile, metric: DistsOfTile) -> None:
        targets: dict[str, Tensor] = {}
        head = MetricHead(metric, self._indices, targets, self._wanted)
        pair = self._read(tile)
        tapes = self._forward(pair, own_part(tile, holder(targets)), own_part(tile, head.on_tap))
        head.distances()  # which makes the gradients of what waits
        self._backward(tile, pair, tapes, (PartGradients(head.by_output, tile), PartGradients(head.by_target, tile)))
        if IMAGE in self._indices:
            output, target = self._own_images(tile, pair)
            _, *found = metric.gradients([self._indices[IMAGE]], [output], [target], None, *self._wanted)
            for whole, made in zip((self.by_output, self.by_target), found, strict=True):
                for gradient in made:
                    assert whole is not None, "it is wanted"
                    whole[tile.own] += gradient

    def _read(self, tile: Tile) -> tuple[Tensor, Tensor]:  # (n, 3, h, w), (n or 1, 3, h, w)
        return self.output[tile.image], self.target[tile.image]

    def _forward(self, pair: tuple[Tensor, Tensor], of_target: Tap, of_output: Tap, keep: bool = True) -> list[Tape]:
        """Runs output and target of a tile in lockstep, the target first."""
        trunk_input, layers = self.trunk_input, [layer for layer in self.layers if layer != IMAGE]
        sides = (pair[1], of_target, self._wanted[1]), (pair[0], of_output, self._wanted[0])
        runs = [(trunk_input.normalized(images), tap, keep and wanted) for images, tap, wanted in sides]
        return trunk_input.forward(runs, layers)

    def _backward(
        self, tile: Tile, pair: tuple[Tensor, Tensor], tapes: Sequence[Tape], gradients: Sequence[TapGradients]
    ) -> None:
        """Adds the image gradients of a tile; of output and target, but for tapes: target, output."""
        wholes = self.by_output, self.by_target
        for whole, tape, made, images in zip(wholes, reversed(tapes), gradients, pair, strict=True):
            if whole is not None:
                whole[tile.image] += self.trunk_input.backward(tape, made, images, None)

    @property
    def _indices(self) -> dict[str, int]:
        return {layer: i for i, layer in enumerate(self.layers)}

    @property
    def _wanted(self) -> tuple[bool, bool]:
        return self.by_output is not None, self.by_target is not None

    def _own_images(self, tile: Tile, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The tile's own region of output and target."""
        output, target = (images[tile.own_part].to(self.trunk_input.wide) for images in pair)
        return output, target

    def _share(self, tile: Tile, layer: str) -> float:
        return area_of(tile.own) / math.prod(self.output.shape[2:]) if layer == IMAGE else share_of(tile, layer)

    def _of_all(self, parts: list[Tensor]) -> Tensor:  # (L, n) each -> (L, n)
        """The sum over this process's parts, and over all processes."""
        shape = len(self.layers), self.output.shape[0]
        none = self.trunk_input.scale.new_zeros(shape, dtype=checks.widest(self.trunk_input.scale.device))
        (found,) = self.share.summed([reduce(torch.add, parts, none)])
        return found.to(self.trunk_input.wide)

    def _tiles(self) -> Iterator[Tile]:
        for tile in tiles_through(
            self.trunk_input.trunk_key, self.passes[0], self.output.shape, self.side, self.share.band
        ):
            yield tile
            self.progress(tile)
