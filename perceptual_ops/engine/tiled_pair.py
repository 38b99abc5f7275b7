"""A pair of large images: the first layers in tiles, the rest at once.

The maps of the first layers are many times the size of the image, so they are computed tile by tile. The gradient of
their own taps is propagated to the image at once, while the tile's maps exist; that of the rest follows later through
the signs and argmaxes of each tile, 1/32 of its maps. The gradient is the sum of both, since a backward is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .custom_op import TrunkInput
from .masks import Mask, weighed
from .metric_head import MetricHead
from .metrics import Metric
from .perceptual_head import LayerGradients
from .registry import trunk_by_key
from .stages import Tap
from .tiles import Tile, tiles_of
from .trunk import Tape, Trunk, holder


@dataclass
class _Side:
    """The output or the target.

    Attributes:
        gradient: With respect to the images (n, 3, H, W), summed over tiles; None where it is not wanted.
        map: The map at the cut, (n, C, H', W'), filled tile by tile.
        tapes: Of each tile, up to the cut.
    """

    trunk_input: TrunkInput
    cut: str
    images: Tensor  # (n, 3, H, W), the target also (1, 3, H, W)
    gradient: Tensor | None
    map: Tensor | None = None
    tapes: list[tuple[Tile, Tape]] = field(default_factory=list)

    def keeper(self, tile: Tile, tap: Tap) -> Tap:
        """A tap that stores a tile's map at the cut and passes the others on to `tap`."""

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
        """Gives up the map, keeping no reference."""
        assert self.map is not None, "there is a tile"
        x, self.map = self.map, None
        return x

    def add(self, tile: Tile, tape: Tape, gradients: LayerGradients) -> None:
        assert self.gradient is not None, "it is wanted"
        images = self.images[tile.image]
        self.gradient[tile.image] += self.trunk_input.backward(tape, gradients, images, None)

    def finish(self, gradient: Tensor, gradients: LayerGradients) -> None:
        """Propagates the gradient (n, C, H', W') at the cut, scaled as `gradients` say, to the images."""
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
    """A chunk of pairs that runs in tiles up to a pooling, for LPIPS.

    Args:
        trunk_input, metric, layers: See `Pair`.
        cut: The pooling.
        side: Of a tile, about, in pixels.
        output: (n, 3, H, W).
        target: (n or 1, 3, H, W).
        by_output, by_target: Gradient buffers (n, 3, H, W) that are added to; None where not wanted.
        mask: That of the pixels compared.
        part_of: The tile of larger images that these are, whose mask it is; None: they are whole.
    """

    def __init__(
        self,
        trunk_input: TrunkInput,
        metric: Metric,
        layers: Sequence[str],
        cut: str,
        side: int,
        output: Tensor,
        target: Tensor,
        by_output: Tensor | None,
        by_target: Tensor | None,
        mask: Mask | None = None,
        part_of: Tile | None = None,
    ) -> None:
        trunk = trunk_by_key(trunk_input.trunk_key)
        assert isinstance(trunk, Trunk), "tiles are of chains"
        self._trunk, self._dtype, self._metric = trunk, trunk_input.dtype, metric
        self._layers, self._mask = layers, mask
        self._indices = {layer: i for i, layer in enumerate(layers)}
        names = [layer.name for layer in trunk.network.layers]
        self._shallow = trunk.network.layers[: names.index(cut) + 1]
        near = {layer.name for layer in self._shallow}
        self._cut, self._tile_side = cut, side
        self._near = [layer for layer in layers if layer in near]
        self._far = [layer for layer in layers if layer not in near]
        self._output, self._target = (
            _Side(trunk_input, cut, output, by_output),
            _Side(trunk_input, cut, target, by_target),
        )
        self._wanted = by_output is not None, by_target is not None
        self._part_of = part_of

    def run(self) -> Tensor:
        """The distance (L, n) of each layer."""
        size = (self._output.images.shape[2], self._output.images.shape[3])
        values: dict[str, Tensor] = {}
        for tile in tiles_of(self._shallow, [*self._near, self._cut], size, self._tile_side):
            for layer, value in self._run_tile(tile).items():
                values[layer] = values[layer] + value if layer in values else value
        values |= self._run_rest()
        return torch.stack([values[layer] for layer in self._indices])

    def _run_tile(self, tile: Tile) -> dict[str, Tensor]:  # (n)
        """The first layers of a tile: its share of their distances."""
        targets: dict[str, Tensor] = {}
        own = tile.within(self._part_of) if self._part_of else tile
        metric = weighed(self._metric, self._layers, self._mask, own)
        head = MetricHead(metric, self._indices, targets, self._wanted)
        sides = (self._target, holder(targets), head.by_target), (self._output, head.on_tap, head.by_output)
        runs = [
            (side.trunk_input.normalized(side.images[tile.image]), side.keeper(tile, tap), side.gradient is not None)
            for side, tap, _ in sides
        ]
        tapes = self._trunk.forward_together(runs, [*self._near, self._cut], self._dtype)
        values = head.distances()
        for (side, _, gradients), tape in zip(sides, tapes, strict=True):
            if side.gradient is None:
                continue
            side.tapes.append((tile, tape.of([self._cut])))
            if self._near:
                side.add(tile, tape.of(self._near), gradients)
        return values

    def _run_rest(self) -> dict[str, Tensor]:  # (n)
        """The layers beyond the cut: distances and backward."""
        targets: dict[str, Tensor] = {}
        metric = weighed(self._metric, self._layers, self._mask, self._part_of)
        head = MetricHead(metric, self._indices, targets, self._wanted)
        sides = (self._target, holder(targets), head.by_target), (self._output, head.on_tap, head.by_output)
        runs = [(side.release(), tap, side.gradient is not None) for side, tap, _ in sides]
        tapes = self._trunk.forward_together(runs, self._far, self._dtype, after=self._cut)
        values = head.distances()
        for (side, _, gradients), tape in zip(sides, tapes, strict=True):
            if side.gradient is not None:
                side.finish(self._trunk.backward(tape, gradients), gradients)
        return values
