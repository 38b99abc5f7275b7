"""A metric of one chunk of image pairs, layer by layer as the trunk computes the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .batching import launches_cost
from .loss_scale import scale_of
from .metrics import Metric
from .perceptual_head import AT_ONCE, LayerGradients


@dataclass
class MetricHead:
    """Values and gradients of a pair, computed as soon as both maps of a layer exist; the first is then freed.

    Where launches dominate, as on a GPU, small maps are batched into one launch. For fp16 gradients, each with its own
    scale, only the values are; the gradients follow when the backward knows the scale.

    Attributes:
        metric: The distance.
        indices: The metric's index of each layer.
        targets: The target's maps, (n or 1, C, H, W). Ownership is taken: a map is dropped once it has been compared.
        wanted: Whether the gradients with respect to the output's and the target's maps are.
        values: The distance (n) of each layer seen so far.
        by_output, by_target: The gradients with respect to the maps.
    """

    metric: Metric
    indices: Mapping[str, int]
    targets: dict[str, Tensor]
    wanted: tuple[bool, bool]
    values: dict[str, Tensor] = field(init=False, default_factory=dict)
    _waiting: dict[str, tuple[Tensor, Tensor]] = field(init=False, default_factory=dict)  # of output and target
    by_output: LayerGradients = field(init=False)
    by_target: LayerGradients = field(init=False)

    def __post_init__(self) -> None:
        self.by_output, self.by_target = (LayerGradients() for _ in range(2))

    def on_tap(self, layer: str, output: Tensor) -> bool:  # (n, C, H, W)
        """A `Tap`: compares the output's map, or keeps it to be batched with others."""
        self._waiting[layer] = output, self.targets.pop(layer)
        waiting = sum(map.nbytes for pair in self._waiting.values() for map in pair)
        if not launches_cost(output.device) or waiting > AT_ONCE:
            self._measure()
        return layer in self._waiting

    def distances(self) -> dict[str, Tensor]:  # (n)
        """The distance of each layer. Call it after the forward, before the gradients."""
        self._measure(leave=True)
        return self.values

    def _measure(self, leave: bool = False) -> None:
        """Values and gradients of the maps that wait; fp16 gradients may be left to the backward.

        A module's maps may differ in dtype.
        """
        for dtype in {output.dtype: None for output, _ in self._waiting.values()}:
            layers = [layer for layer, (output, _) in self._waiting.items() if output.dtype == dtype]
            scaled = dtype == torch.float16 and any(self.wanted)
            if scaled and leave:
                self._leave_gradients(layers)
            else:
                for together in [[layer] for layer in layers] if scaled else [layers]:
                    self._measure_together(together)

    def _measure_together(self, layers: Sequence[str]) -> None:
        """Values and gradients of layers with one dtype and scale."""
        indices, outputs, targets = self._taken(layers)
        if any(self.wanted):
            scale, bounds = self._scale(indices[0], outputs[0], targets[0])
            values, *per_side = self.metric.gradients(indices, outputs, targets, scale, *self.wanted)
            self._put(layers, per_side, scale, bounds)
        else:
            values = self.metric.values(indices, outputs, targets)
        self.values |= zip(layers, values, strict=True)

    def _leave_gradients(self, layers: Sequence[str]) -> None:
        """The values now; gradients later, with their bounds, when the backward asks."""
        indices, outputs, targets = self._taken(layers)
        self.values |= zip(layers, self.metric.values(indices, outputs, targets), strict=True)
        for layer, i, x, y in zip(layers, indices, outputs, targets, strict=True):
            for side, (gradients, bound) in enumerate(zip(self._sides(), self._bounds(i, x, y), strict=True)):
                if bound is not None:
                    gradients.put_later(layer, partial(self._gradient, i, x, y, side), bound)

    def _gradient(self, i: int, x: Tensor, y: Tensor, side: int, scale: Tensor) -> Tensor:
        """The gradient with respect to one side's map, times a scale (n)."""
        _, *per_side = self.metric.gradients([i], [x], [y], scale, side == 0, side == 1)
        return per_side[side][0]

    def _taken(self, layers: Sequence[str]) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """Indices and maps of layers, which are removed from the queue."""
        outputs, targets = map(list, zip(*(self._waiting.pop(layer) for layer in layers), strict=True))
        return [self.indices[layer] for layer in layers], outputs, targets

    def _sides(self) -> tuple[LayerGradients, LayerGradients]:
        return self.by_output, self.by_target

    def _bounds(self, i: int, x: Tensor, y: Tensor) -> list[Tensor | None]:  # (n)
        """Bounds of the gradients that are wanted."""
        like_x = y.expand_as(x)
        pairs = zip(((x, like_x), (like_x, x)), self.wanted, strict=True)
        return [self.metric.bound(i, *pair) if wanted else None for pair, wanted in pairs]

    def _scale(self, i: int, x: Tensor, y: Tensor) -> tuple[Tensor | None, list[Tensor | None]]:
        """The scale (n) of fp16 gradients and the bounds (n) of both; None for other dtypes."""
        if x.dtype != torch.float16:
            return None, [None, None]
        bounds = self._bounds(i, x, y)
        return scale_of(*(bound for bound in bounds if bound is not None)), bounds

    def _put(
        self, layers: Sequence[str], per_side: list[list[Tensor]], scale: Tensor | None, bounds: list[Tensor | None]
    ) -> None:
        for gradients, made, bound in zip(self._sides(), per_side, bounds, strict=True):
            for layer, gradient in zip(layers if made else [], made, strict=True):
                gradients.put(layer, gradient, scale, bound)
