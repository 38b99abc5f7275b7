"""A metric of one chunk of image pairs, layer by layer as the trunk makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .loss_scale import LossScale
from .metrics import Lpips, Metric
from .perceptual_head import LayerGradients
from .tiles import Tile


class MetricHead:
    """Values and gradients, each made of both maps when the trunk has the second, so that the first is gone.

    Args:
        metric: What is measured.
        indices: The metric's index of each layer.
        ones: (n), in the accumulation dtype.
        scaled: Whether gradients are scaled by powers of two, in fp16.
        targets: The target's maps, (n or 1, C, H, W). Taken over: a map is dropped when it was met.
        by_output, by_target: Whether gradients with respect to the output's and the target's maps are wanted.

    Attributes:
        values: The distance (n) of each layer met.
        by_output, by_target: The gradients with respect to the maps.
    """

    def __init__(
        self,
        metric: Metric,
        indices: Mapping[str, int],
        ones: Tensor,
        scaled: bool,
        targets: dict[str, Tensor],
        by_output: bool,
        by_target: bool,
    ) -> None:
        self._metric, self._indices, self._ones, self._scaled = metric, indices, ones, scaled
        self._targets = targets
        self._wanted = by_output, by_target
        self.values: dict[str, Tensor] = {}
        self.by_output, self.by_target = (LayerGradients(ones, scaled) for _ in range(2))

    def meet(self, layer: str, output: Tensor) -> bool:  # (n, C, H, W)
        """A `Tap`: takes the output's map in, which nobody holds after that."""
        i, target = self._indices[layer], self._targets.pop(layer)
        if not any(self._wanted):
            self.values[layer] = self._metric.value(i, output, target)
            return False
        scale, bounds = self._scale(i, output, target)
        value, *found = self._metric.gradients(i, output, target, scale, *self._wanted)
        self.values[layer] = value
        self._put(layer, found, scale, bounds)
        return False

    def _scale(self, i: int, x: Tensor, y: Tensor) -> tuple[Tensor | None, list[Tensor | None]]:
        """What gradients are scaled by (n), and the bounds of both (n); None where there is no scale."""
        if not self._scaled:
            return None, [None, None]
        like_x = y.expand_as(x)
        pairs = zip(((x, like_x), (like_x, x)), self._wanted, strict=True)
        bounds = [self._metric.bound(i, *pair) if wanted else None for pair, wanted in pairs]
        chosen = LossScale(self._ones)
        chosen.choose([bound for bound in bounds if bound is not None], 1.0, 1.0, first=True)
        return chosen.current, bounds

    def _put(self, layer: str, found: list[list[Tensor]], scale: Tensor | None, bounds: list[Tensor | None]) -> None:
        for gradients, made, bound in zip((self.by_output, self.by_target), found, bounds, strict=True):
            for gradient in made:
                gradients.put(layer, gradient, scale, bound)


class TileHead(MetricHead):
    """The same of a tile: of its maps only the part counts that is its own, and as a share of the whole image.

    By pixels, so that nothing is cut out of the maps: what the tile brought along has a weight of 0.
    """

    def __init__(
        self,
        metric: Lpips,
        indices: Mapping[str, int],
        ones: Tensor,
        scaled: bool,
        targets: dict[str, Tensor],
        by_output: bool,
        by_target: bool,
        tile: Tile,
    ) -> None:
        super().__init__(metric, indices, ones, scaled, targets, by_output, by_target)
        self._lpips, self._tile = metric, tile

    def meet(self, layer: str, output: Tensor) -> bool:  # (n, C, H, W)
        i, target = self._indices[layer], self._targets.pop(layer)
        pixels, part = self._lpips.pixels(i, output, target), self._tile.part(layer)
        share = 1 / math.prod(self._tile.size(layer))
        self.values[layer] = share * pixels[part].sum((1, 2, 3))
        if not any(self._wanted):
            return False
        scale, bounds = self._scale(i, output, target)
        weights = torch.zeros_like(pixels)
        weights[part] = share * (self._ones if scale is None else scale).view(-1, 1, 1, 1)
        found = self._lpips.pixel_gradients(i, output, target, weights, *self._wanted)
        # A bound of the mean over the tile is one of the mean over more pixels.
        self._put(layer, list(found), scale, bounds)
        return False
