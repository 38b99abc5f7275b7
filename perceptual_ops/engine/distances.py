"""Content distances for the lean engine: values, gradients, and bounds of the gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import _checks as checks
from ..reference import distance_map
from .masks import LayerMask
from .metrics import Lpips, LpipsOfPixels

operators: Any = torch.ops.perceptual_ops


Values = tuple[Tensor, Tensor]  # (n) each, times the weight and without it


class ContentDistance(Protocol):
    """A distance of maps x (n, C, H, W) and y (n or 1, C, H, W), and its weight."""

    def values(self, x: Tensor, y: Tensor) -> Values:
        """The distance."""

    def gradients(
        self, x: Tensor, y: Tensor, scale: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Values, Tensor | None, Tensor | None]:
        """The distance, and the wanted gradients of scale (n) * weight * distance."""

    def bound(self, x: Tensor, y: Tensor) -> Tensor:  # (n)
        """An upper bound of each sample's gradient magnitude, weighted and unscaled."""


@dataclass(frozen=True)
class OfErrors:
    """An elementwise distance of `perceptual_ops.feature_loss`."""

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
        return self._steepest(x, y, abs(self.weight) * (1.0 if self.name == "sse" else 1 / math.prod(x.shape[1:])))

    def _steepest(self, x: Tensor, y: Tensor, share: float) -> Tensor:  # (n)
        """A bound of the derivative of share * d."""
        if self.name in ("mse", "sse"):
            return 2 * share * (largest(x) + largest(y))
        steepest = {"l1": 1.0, "charbonnier": 1.0, "huber": self.parameter}
        if self.name not in steepest:
            raise checks.unknown("distance", self.name, checks.DISTANCES)
        return x.new_full(x.shape[:1], share * steepest[self.name], dtype=torch.float32)


@dataclass(frozen=True)
class OfMaskedErrors(OfErrors):
    """The same with weights of the pixels: the sum over them of weights times the mean over the channels of d.

    In a few passes of torch; the error and its distance, in the accumulation dtype, exist at the same time.

    Attributes:
        mask: At the layer. "sse" sums over channels, weighed by the mask itself.
    """

    mask: LayerMask

    def values(self, x: Tensor, y: Tensor) -> Values:
        value = self._summed(distance_map(self._error(x, y), self.name, self.parameter))
        return self.weight * value, value

    def gradients(
        self, x: Tensor, y: Tensor, scale: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Values, Tensor | None, Tensor | None]:
        error = self._error(x, y)
        value = self._summed(distance_map(error, self.name, self.parameter))
        upstream = self.weight * self._weights(x)
        if scale is not None:
            upstream = upstream * scale.view(-1, 1, 1, 1)
        gradient = self._slope(error).mul_(upstream).to(x.dtype)
        return (self.weight * value, value), gradient if by_x else None, -gradient if by_y else None

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        return self._weights(x).amax((1, 2, 3)).float() * self._steepest(x, y, abs(self.weight))

    def _error(self, x: Tensor, y: Tensor) -> Tensor:  # (n, C, H, W)
        wide = checks.accumulator_dtype(x)
        return x.to(wide) - y.to(wide)

    def _weights(self, x: Tensor) -> Tensor:  # (n or 1, 1, H, W)
        """The weight of each element of the map."""
        return self.mask.pixels if self.name == "sse" else self.mask.shares / x.shape[1]

    def _summed(self, distances: Tensor) -> Tensor:  # (n, C, H, W) -> (n)
        return (self._weights(distances) * distances.sum(1, keepdim=True)).sum((1, 2, 3))

    def _slope(self, error: Tensor) -> Tensor:
        """The derivative of d, written over the error."""
        if self.name in ("mse", "sse"):
            return error.mul_(2)
        if self.name == "l1":
            return error.sign_()
        if self.name == "charbonnier":
            return error.div_(distance_map(error, self.name, self.parameter))
        if self.name == "huber":
            return error.clamp_(-self.parameter, self.parameter)
        raise checks.unknown("distance", self.name, checks.DISTANCES)


@dataclass(frozen=True)
class Cosine:
    """1 - the cosine of a pixel's channels, averaged over the pixels: half the squared error of unit vectors.

    Attributes:
        mask: At the layer, as weights of the mean.
    """

    weight: float
    mask: LayerMask | None

    def _metric(self, x: Tensor) -> Lpips:
        settings, mask = (checks.halves([x]), checks.COSINE_EPS, False), self.mask
        return Lpips(*settings) if mask is None else LpipsOfPixels(*settings, lambda i, x: mask.shares)

    def values(self, x: Tensor, y: Tensor) -> Values:
        (value,) = self._metric(x).values([0], [x], [y])
        return self.weight * value, value

    def gradients(
        self, x: Tensor, y: Tensor, scale: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Values, Tensor | None, Tensor | None]:
        upstream = torch.full((x.shape[0],), self.weight, dtype=checks.accumulator_dtype(x), device=x.device)
        if scale is not None:
            upstream = upstream * scale
        (value,), *per_side = self._metric(x).gradients([0], [x], [y], upstream, by_x, by_y)
        of_x, of_y = (gradients[0] if gradients else None for gradients in per_side)
        return (self.weight * value, value), of_x, of_y

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        metric, y = self._metric(x), y.expand_as(x)
        return abs(self.weight) * torch.maximum(metric.bound(0, x, y), metric.bound(0, y, x))


def content_distance(name: str, parameter: float, weight: float, mask: LayerMask | None) -> ContentDistance:
    """The distance with a name, see `perceptual_ops.feature_loss`; weighted by a mask, if there is one."""
    if name == "cosine":
        return Cosine(weight, mask)
    settings = checks.check_choice("distance", name, checks.DISTANCES), parameter, weight
    return OfErrors(*settings) if mask is None else OfMaskedErrors(*settings, mask)


def largest(x: Tensor) -> Tensor:  # (n, C, H, W) -> (n) fp32
    """The largest magnitude of each sample."""
    return torch.linalg.vector_norm(x, torch.inf, dim=(1, 2, 3), dtype=torch.float32)
