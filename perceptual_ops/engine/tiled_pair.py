"""A pair of large images: the first layers in tiles, the rest at once.

The maps of the first layers are many times the image, and those of a tile fit where all of a smaller image do. The
gradient of their own taps runs to the image at once, while the tile is there; that of the rest follows by the signs
and maxima of each tile, which are a 32nd of its maps. The sum of both is the gradient, since a backward is linear.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .custom_op import Entry
from .pair import Pair
from .perceptual_head import LayerGradients
from .registry import trunk_of
from .stages import Tap
from .tiles import Tile, tiles_of
from .trunk import Tape, Trunk, holder


@dataclass
class _Side:
    """The output or the target.

    Attributes:
        gradient: With respect to the images (n, 3, H, W), summed over tiles; None where it is not wanted.
        map: That of the cut, (n, C, H', W'), as the tiles make it.
        tapes: Of each tile, up to the cut.
    """

    entry: Entry
    cut: str
    images: Tensor  # (n, 3, H, W)
    gradient: Tensor | None
    map: Tensor | None = None
    tapes: list[tuple[Tile, Tape]] = field(default_factory=list)

    def keeper(self, tile: Tile, tap: Tap) -> Tap:
        """A tap that takes in a tile's map of the cut, and leaves the others to `tap`."""

        def take(layer: str, x: Tensor) -> bool:  # (n, C, h, w)
            if layer != self.cut:
                return tap(layer, x)
            if self.map is None:
                shape = (x.shape[0], x.shape[1], *tile.size(self.cut))
                self.map = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
            self.map[tile.whole(self.cut)] = x[tile.part(self.cut)]
            return False

        return take

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
        """Brings the gradient (n, C, H', W') at the cut's map, scaled as `gradients` say, to the images."""
        scale = gradients.scale.current if gradients.scale else None
        for tile, tape in self.tapes:
            size = gradient.shape[0], gradient.shape[1], *tile.own_size(self.cut)
            part = torch.empty(size, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)
            part.zero_()[tile.part(self.cut)] = gradient[tile.whole(self.cut)]
            bound = None
            if scale is not None:
                bound = torch.linalg.vector_norm(part, torch.inf, dim=(1, 2, 3), dtype=scale.dtype) / scale
            of_tile = LayerGradients()
            of_tile.put(self.cut, part, scale, bound)
            self.add(tile, tape, of_tile)


class TiledPair:
    """Runs a pair up to the pooling `cut` in tiles of `side` pixels, for LPIPS."""

    def __init__(self, pair: Pair, cut: str, side: int) -> None:
        self._pair = pair
        trunk = trunk_of(pair.entry.trunk_key)
        assert isinstance(trunk, Trunk), "tiles are of chains"
        self._trunk = trunk
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
        head = self._pair.head(targets, tile)
        sides = (self._target, holder(targets), head.by_target), (self._output, head.meet, head.by_output)
        runs = [
            (side.entry.normalized(side.images[tile.image]), side.keeper(tile, tap), side.gradient is not None)
            for side, tap, _ in sides
        ]
        tapes = self._trunk.forward_together(runs, [*self._near, self._cut], self._pair.entry.dtype)
        values = head.distances()
        for (side, _, gradients), tape in zip(sides, tapes, strict=True):
            if side.gradient is None:
                continue
            side.tapes.append((tile, tape.of([self._cut])))
            if self._near:
                side.add(tile, tape.of(self._near), gradients)
        return values

    def _run_rest(self) -> dict[str, Tensor]:  # (n)
        """The layers beyond the cut: their distances, and the way back."""
        targets: dict[str, Tensor] = {}
        head = self._pair.head(targets)
        sides = (self._target, holder(targets), head.by_target), (self._output, head.meet, head.by_output)
        runs = [(side.release(), tap, side.gradient is not None) for side, tap, _ in sides]
        tapes = self._trunk.forward_together(runs, self._far, self._pair.entry.dtype, after=self._cut)
        values = head.distances()
        for (side, _, gradients), tape in zip(sides, tapes, strict=True):
            if side.gradient is not None:
                side.finish(self._trunk.backward(tape, gradients), gradients)
        return values
