"""The distances of a content layer, as the engine asks for them: values, gradients and bounds of those."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .. import _checks as checks
from .metrics import Lpips

operators = torch.ops.perceptual_ops


Values = tuple[Tensor, Tensor]  # (n) each, times the weight and without it


class ContentDistance(Protocol):
    """A distance of maps x (n, C, H, W) and y (n or 1, C, H, W), and its weight."""

    def values(self, x: Tensor, y: Tensor) -> Values:
        """The distance."""

    def gradients(
        self, x: Tensor, y: Tensor, scale: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Values, Tensor | None, Tensor | None]:
        """The distance, and the gradients of scale (n) * weight * distance that are wanted."""

    def bound(self, x: Tensor, y: Tensor) -> Tensor:  # (n)
        """At least the largest magnitude of each sample's gradient, weighted and unscaled."""


@dataclass(frozen=True)
class OfErrors:
    """What `perceptual_ops.feature_loss` makes of the error of every element."""

    name: str
    parameter: float
    weight: float

    def values(self, x: Tensor, y: Tensor) -> Values:
        loss, values = operators.feature_loss([x], [y], [self.weight], self.name, self.parameter)
        return loss, values[0]

    def gradients(
        self, x: Tensor, y: Tensor, scale: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Values, Tensor | None, Tensor | None]:
        arguments = [x], [y], [self.weight], self.name, self.parameter
        loss, values, (gradient,) = operators.feature_loss_with_gradient(*arguments, scale)
        # A distance of errors depends on x - y alone.
        return (loss, values[0]), gradient if by_x else None, -gradient if by_y else None

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        share = abs(self.weight) * (1.0 if self.name == "sse" else 1 / math.prod(x.shape[1:]))
        if self.name in ("mse", "sse"):
            return 2 * share * (largest(x) + largest(y))
        steepest = {"l1": 1.0, "charbonnier": 1.0, "huber": self.parameter}
        if self.name not in steepest:
            raise checks.unknown("distance", self.name, checks.DISTANCES)
        return x.new_full(x.shape[:1], share * steepest[self.name], dtype=torch.float32)


@dataclass(frozen=True)
class Cosine:
    """1 - the cosine of a pixel's channels, averaged over the pixels: half the squared error of unit vectors."""

    weight: float

    def _metric(self, x: Tensor) -> Lpips:
        return Lpips(checks.halves([x]), checks.COSINE_EPS, False)

    def values(self, x: Tensor, y: Tensor) -> Values:
        (value,) = self._metric(x).values([0], [x], [y])
        return self.weight * value, value

    def gradients(
        self, x: Tensor, y: Tensor, scale: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Values, Tensor | None, Tensor | None]:
        upstream = torch.full((x.shape[0],), self.weight, dtype=checks.accumulator_dtype(x), device=x.device)
        if scale is not None:
            upstream = upstream * scale
        (value,), *found = self._metric(x).gradients([0], [x], [y], upstream, by_x, by_y)
        of_x, of_y = (gradients[0] if gradients else None for gradients in found)
        return (self.weight * value, value), of_x, of_y

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        metric, y = self._metric(x), y.expand_as(x)
        return abs(self.weight) * torch.maximum(metric.bound(0, x, y), metric.bound(0, y, x))


def content_distance(name: str, parameter: float, weight: float) -> ContentDistance:
    """The distance of a name, see `perceptual_ops.feature_loss`."""
    if name == "cosine":
        return Cosine(weight)
    return OfErrors(checks.check_choice("distance", name, checks.DISTANCES), parameter, weight)


def largest(x: Tensor) -> Tensor:  # (n, C, H, W) -> (n) fp32
    """The largest magnitude of each sample."""
    return torch.linalg.vector_norm(x, torch.inf, dim=(1, 2, 3), dtype=torch.float32)
