"""A metric of one chunk of image pairs, layer by layer as the trunk makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .loss_scale import scale_of
from .metrics import Lpips, Metric
from .perceptual_head import LayerGradients
from .tiles import Tile


@dataclass
class MetricHead:
    """Values and gradients, each made of both maps when the trunk has the second, so that the first is gone.

    Attributes:
        metric: What is measured.
        indices: The metric's index of each layer.
        samples: (n, ...), the images of the chunk.
        targets: The target's maps, (n or 1, C, H, W). Taken over: a map is dropped when it was met.
        wanted: Whether gradients with respect to the output's and the target's maps are.
        values: The distance (n) of each layer met.
        by_output, by_target: The gradients with respect to the maps.
    """

    metric: Metric
    indices: Mapping[str, int]
    samples: Tensor
    targets: dict[str, Tensor]
    wanted: tuple[bool, bool]
    values: dict[str, Tensor] = field(init=False, default_factory=dict)
    by_output: LayerGradients = field(init=False)
    by_target: LayerGradients = field(init=False)

    def __post_init__(self) -> None:
        self.by_output, self.by_target = (LayerGradients(self.samples) for _ in range(2))

    def meet(self, layer: str, output: Tensor) -> bool:  # (n, C, H, W)
        """A `Tap`: takes the output's map in, which nobody holds after that."""
        i, target = self.indices[layer], self.targets.pop(layer)
        if not any(self.wanted):
            self.values[layer] = self.metric.value(i, output, target)
            return False
        scale, bounds = self._scale(i, output, target)
        value, *found = self.metric.gradients(i, output, target, scale, *self.wanted)
        self.values[layer] = value
        self._put(layer, found, scale, bounds)
        return False

    def _scale(self, i: int, x: Tensor, y: Tensor) -> tuple[Tensor | None, list[Tensor | None]]:
        """What gradients in fp16 are scaled by (n), and the bounds of both (n); None where there is no scale."""
        if x.dtype != torch.float16:
            return None, [None, None]
        like_x = y.expand_as(x)
        pairs = zip(((x, like_x), (like_x, x)), self.wanted, strict=True)
        bounds = [self.metric.bound(i, *pair) if wanted else None for pair, wanted in pairs]
        first, *others = (bound for bound in bounds if bound is not None)
        return scale_of(sum(others, first)), bounds

    def _put(self, layer: str, found: list[list[Tensor]], scale: Tensor | None, bounds: list[Tensor | None]) -> None:
        for gradients, made, bound in zip((self.by_output, self.by_target), found, bounds, strict=True):
            for gradient in made:
                gradients.put(layer, gradient, scale, bound)


@dataclass
class TileHead(MetricHead):
    """The same of a tile: of its maps only the part counts that is its own, and as a share of the whole image.

    By pixels, so that nothing is cut out of the maps: what the tile brought along has a weight of 0.
    """

    metric: Lpips
    tile: Tile

    def meet(self, layer: str, output: Tensor) -> bool:  # (n, C, H, W)
        i, target = self.indices[layer], self.targets.pop(layer)
        pixels, part = self.metric.pixels(i, output, target), self.tile.part(layer)
        share = 1 / math.prod(self.tile.size(layer))
        self.values[layer] = share * pixels[part].sum((1, 2, 3))
        if not any(self.wanted):
            return False
        scale, bounds = self._scale(i, output, target)
        weights = torch.zeros_like(pixels)
        weights[part] = share if scale is None else share * scale.view(-1, 1, 1, 1)
        found = self.metric.pixel_gradients(i, output, target, weights, *self.wanted)
        # A bound of the mean over the tile is one of the mean over more pixels.
        self._put(layer, list(found), scale, bounds)
        return False
