"""A pair of large images: the first layers in tiles, the rest at once.

The maps of the first layers are many times the image, and those of a tile fit where all of a smaller image do. The
gradient of their own taps runs to the image at once, while the tile is there; that of the rest follows by the signs
and maxima of each tile, which are a 32nd of its maps. The sum of both is the gradient, since a backward is linear.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..networks.stages import Tap
from ..networks.tiles import Tile, tiles_of
from ..networks.trunk import Tape, holder, trunk_of
from .entry import Entry
from .head import LayerGradients
from .pair import Pair
from .pair_head import placed


@dataclass
class _Side:
    """The output or the target.

    Attributes:
        gradient: By the images (n, 3, H, W), summed over tiles; None where it is not wanted.
        map: That of the cut, (n, C, H', W'), as the tiles make it.
        tapes: Of each tile, up to the cut, with the size of its map there.
    """

    entry: Entry
    cut: str
    images: Tensor  # (n, 3, H, W)
    gradient: Tensor | None
    map: Tensor | None = None
    tapes: list[tuple[Tile, Tape, tuple[int, int]]] = field(default_factory=list)

    def keep(self, tile: Tile, x: Tensor) -> None:  # (n, C, h, w)
        """Takes in a tile's map of the cut."""
        if self.map is None:
            shape = (x.shape[0], x.shape[1], *tile.size(self.cut))
            self.map = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        self.map[tile.whole(self.cut)] = x[tile.part(self.cut)]

    def release(self) -> Tensor:
        """The map, held by nobody else."""
        assert self.map is not None, "there is a tile"
        x, self.map = self.map, None
        return x

    def add(self, tile: Tile, tape: Tape, gradients: LayerGradients) -> None:
        assert self.gradient is not None, "it is wanted"
        images = self.images[tile.image]
        self.gradient[tile.image] += self.entry.backward(tape, gradients, images, None)

    def finish(self, gradient: Tensor, gradients: LayerGradients) -> None:
        """Brings the gradient by the map of the cut (n, C, H', W'), scaled as `gradients` say, to the images."""
        scale = gradients.scale.current if gradients.scale else None
        for tile, tape, size in self.tapes:
            part = placed(gradient[tile.whole(self.cut)], tile.part(self.cut), size)
            bound = None
            if scale is not None:
                bound = torch.linalg.vector_norm(part, torch.inf, dim=(1, 2, 3), dtype=scale.dtype) / scale
            of_tile = gradients.another()
            of_tile.put(self.cut, part, scale, bound)
            self.add(tile, tape, of_tile)


class TiledPair:
    """Runs a pair up to the pooling `cut` in tiles of `side` pixels, for a metric that is a mean over pixels."""

    def __init__(self, pair: Pair, cut: str, side: int) -> None:
        self._pair = pair
        self._trunk = trunk_of(pair.entry.trunk)
        names = [layer.name for layer in self._trunk.network.layers]
        self._shallow = self._trunk.network.layers[: names.index(cut) + 1]
        near = {layer.name for layer in self._shallow}
        self._cut, self._tile_side = cut, side
        self._near = [layer for layer in pair.layers if layer in near]
        self._far = [layer for layer in pair.layers if layer not in near]
        target = pair.target.expand_as(pair.output)
        self._output = _Side(pair.entry, cut, pair.output, pair.by_output)
        self._target = _Side(pair.entry, cut, target, pair.by_target)

    def run(self) -> Tensor:
        """The distance (L, n) of each layer."""
        for gradient in (self._output.gradient, self._target.gradient):
            if gradient is not None:
                gradient.zero_()
        size = (self._pair.output.shape[2], self._pair.output.shape[3])
        values: dict[str, Tensor] = {}
        for tile in tiles_of(self._shallow, [*self._near, self._cut], size, self._tile_side):
            for layer, value in self._run_tile(tile).items():
                values[layer] = values[layer] + value if layer in values else value
        values |= self._run_rest()
        return torch.stack([values[layer] for layer in self._pair.layers])

    def _run_tile(self, tile: Tile) -> dict[str, Tensor]:  # (n)
        """The first layers of a tile: its share of their distances."""
        targets: dict[str, Tensor] = {}
        target_tape = self._shallow_pass(self._target, tile, holder(targets))
        head = self._pair.head(targets, tile)
        output_tape = self._shallow_pass(self._output, tile, head.meet)
        sides = (self._output, output_tape, head.by_output), (self._target, target_tape, head.by_target)
        for side, tape, gradients in sides:
            if side.gradient is not None and self._near:
                side.add(tile, tape.of(self._near), gradients)
        return head.values

    def _shallow_pass(self, side: _Side, tile: Tile, take: Tap) -> Tape:
        sizes: list[tuple[int, int]] = []

        def tap(layer: str, x: Tensor) -> bool:
            if layer != self._cut:
                return take(layer, x)
            side.keep(tile, x)
            sizes.append((x.shape[2], x.shape[3]))
            return False

        keep = side.gradient is not None
        images = side.entry.normalized(side.images[tile.image])
        tape = self._trunk.forward(images, [*self._near, self._cut], tap, keep)
        if keep:
            side.tapes.append((tile, tape.of([self._cut]), sizes[0]))
        return tape

    def _run_rest(self) -> dict[str, Tensor]:  # (n)
        """The layers beyond the cut: their distances, and the way back."""
        targets: dict[str, Tensor] = {}
        target_tape = self._deep_pass(self._target, holder(targets))
        head = self._pair.head(targets)
        output_tape = self._deep_pass(self._output, head.meet)
        sides = (self._target, target_tape, head.by_target), (self._output, output_tape, head.by_output)
        for side, tape, gradients in sides:
            if side.gradient is not None:
                side.finish(self._trunk.backward(tape, gradients), gradients)
        return head.values

    def _deep_pass(self, side: _Side, take: Tap) -> Tape:
        return self._trunk.forward(side.release(), self._far, take, side.gradient is not None, after=self._cut)
