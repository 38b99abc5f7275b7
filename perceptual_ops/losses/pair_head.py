"""A metric of one chunk of image pairs, layer by layer as the trunk makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..networks.gradient_scale import GradientScale
from ..networks.tiles import Region, Tile
from .head import LayerGradients
from .metrics import Metric


class PairHead:
    """Values and gradients, each made of both maps when the trunk has the second, so that the first is gone.

    Args:
        metric: What is measured.
        numbers: The metric's number of each layer.
        ones: (n), in the accumulation dtype.
        scaled: Whether gradients are scaled by powers of two, in fp16.
        targets: The target's maps, (n or 1, C, H, W). Taken over: a map is dropped when it was met.
        by_output, by_target: Whether gradients by the output's and by the target's maps are wanted.
        tile: The part of the image that the maps are of; None: all of it.

    Attributes:
        values: The distance (n) of each layer met; of a tile, its share.
        by_output, by_target: The gradients by the maps.
    """

    def __init__(
        self,
        metric: Metric,
        numbers: Mapping[str, int],
        ones: Tensor,
        scaled: bool,
        targets: dict[str, Tensor],
        by_output: bool,
        by_target: bool,
        tile: Tile | None = None,
    ) -> None:
        self._metric, self._numbers, self._ones, self._scaled = metric, numbers, ones, scaled
        self._targets, self._tile = targets, tile
        self._wants_output, self._wants_target = by_output, by_target
        self.values: dict[str, Tensor] = {}
        self.by_output, self.by_target = (LayerGradients(ones, scaled) for _ in range(2))

    def meet(self, layer: str, output: Tensor) -> bool:  # (n, C, H, W)
        """A `Tap`: takes the output's map in, which nobody holds after that."""
        target = self._targets.pop(layer)
        if self._tile is None:
            self._measure(layer, output, target, 1.0, output.shape)
            return False
        part = self._tile.part(layer)
        x, y = output[part], target[part]
        share = x.shape[2] * x.shape[3] / math.prod(self._tile.size(layer))
        self._measure(layer, x, y, share, output.shape)
        return False

    def _measure(self, layer: str, x: Tensor, y: Tensor, share: float, shape: torch.Size) -> None:
        """Value and gradients of a layer; the gradients lie in maps of `shape`, that of x before it was cropped."""
        i = self._numbers[layer]
        wanted = self._wants_output, self._wants_target
        if not any(wanted):
            self.values[layer] = share * self._metric.value(i, x, y)
            return
        bounds: list[Tensor | None] = [None, None]
        scale = None
        if self._scaled:
            like_x = y.expand_as(x)
            pairs = zip(((x, like_x), (like_x, x)), wanted, strict=True)
            bounds = [share * self._metric.bound(i, *pair) if of else None for pair, of in pairs]
            chosen = GradientScale(self._ones)
            chosen.choose([bound for bound in bounds if bound is not None], 1.0, 1.0, first=True)
            scale = chosen.current
        grad = share * (self._ones if scale is None else scale)
        value, *found = self._metric.gradients(i, x, y, grad, *wanted)
        self.values[layer] = share * value
        for gradients, made, bound in zip((self.by_output, self.by_target), found, bounds, strict=True):
            for gradient in made:
                gradients.put(layer, self._placed(layer, gradient, shape), scale, bound)

    def _placed(self, layer: str, gradient: Tensor, shape: torch.Size) -> Tensor:
        """The gradient in a map of the tile alone; what the tile brought along has none."""
        if self._tile is None:
            return gradient
        return placed(gradient, self._tile.part(layer), (shape[2], shape[3]))


def placed(x: Tensor, where: Region, size: tuple[int, int]) -> Tensor:  # (n, C, h, w) -> (n, C, H, W)
    """A map of zeros of `size`, channels_last, with x in it."""
    whole = torch.empty(
        (x.shape[0], x.shape[1], *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    whole.zero_()[where] = x
    return whole
