"""A chunk of image pairs: a metric and its gradients with respect to the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .custom_op import TrunkInput
from .metric_head import MetricHead
from .metrics import Metric
from .registry import Run
from .trunk import holder

IMAGE = "image"  # the name of the images among the layers: DISTS compares them too, as they are


@dataclass(frozen=True)
class Pair:
    """A chunk of pairs; `wanted`: whether the output's and the target's gradient are."""

    trunk_input: TrunkInput
    metric: Metric
    layers: Sequence[str]
    output: Tensor  # (n, 3, H, W)
    target: Tensor  # (n or 1, 3, H, W)
    wanted: tuple[bool, bool]

    def run(self, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The distance (L, n) of each layer, and the gradients (n, 3, H, W) that are wanted.

        Args:
            targets: The target's maps if known; ownership is taken.
        """
        trunk_input, layers = self.trunk_input, [layer for layer in self.layers if layer != IMAGE]
        head = MetricHead(self.metric, {layer: i for i, layer in enumerate(self.layers)}, targets, self.wanted)
        wants_output, wants_target = self.wanted
        # Keep no reference, so the trunk frees its input after use.
        runs: list[Run] = [(trunk_input.normalized(self.output), head.on_tap, wants_output)]
        if not targets:  # in lockstep: at most one target map waits for the output's
            runs.insert(0, (trunk_input.normalized(self.target), holder(targets), wants_target))
        *target_tape, tape = trunk_input.forward(runs, layers)
        by_images = self._compare_images(head) if IMAGE in self.layers else (None, None)
        values = head.distances()
        by_output = by_target = None
        if wants_target:
            by_target = trunk_input.backward(target_tape[0], head.by_target, self.target, by_images[1])
        if wants_output:
            by_output = trunk_input.backward(tape, head.by_output, self.output, by_images[0])
        return torch.stack([values[layer] for layer in self.layers]), by_output, by_target

    def _compare_images(self, head: MetricHead) -> tuple[Tensor | None, Tensor | None]:  # (n, 3, H, W) each
        """The distance of the images themselves, and its gradients."""
        output, target = self.output.to(self.trunk_input.wide), self.target.to(self.trunk_input.wide)
        (value,), *per_side = self.metric.gradients([self.layers.index(IMAGE)], [output], [target], None, *self.wanted)
        head.values[IMAGE] = value
        by_output, by_target = (gradients[0] if gradients else None for gradients in per_side)
        return by_output, by_target
