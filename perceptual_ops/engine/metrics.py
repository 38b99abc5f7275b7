"""LPIPS and DISTS of feature maps for the lean engine: values, gradients, and bounds of the gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import _checks as checks
from ..reference import DISTS_EPS, dists_by_statistics
from .channel_moments import merged

operators: Any = torch.ops.perceptual_ops

# The number of a layer and its map (n, C, H, W) -> weights (n or 1, 1, H, W), of the accumulation dtype.
WeightsOf = Callable[[int, Tensor], Tensor]


class Metric(Protocol):
    """A distance of maps x and y (n, C, H, W), y maybe with a batch of 1; layers by their number."""

    def values(self, layers: Sequence[int], x: list[Tensor], y: list[Tensor]) -> Tensor:  # (L, n)
        """The distance of each layer."""

    def gradients(
        self, layers: Sequence[int], x: list[Tensor], y: list[Tensor], grad: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The distances (L, n), and the gradients of sum(grad (n) * distances) with respect to x and y, or none."""

    def bound(self, i: int, x: Tensor, y: Tensor) -> Tensor:  # (n)
        """An upper bound of each sample's gradient magnitude with respect to x; for y, swap the two."""


@dataclass(frozen=True)
class Lpips:
    """See `perceptual_ops.lpips_distance`; channel_weights: one (C,) per layer, of the accumulation dtype."""

    channel_weights: Sequence[Tensor]
    eps: float
    eps_inside: bool

    def values(self, layers: Sequence[int], x: list[Tensor], y: list[Tensor]) -> Tensor:
        weights = [self.channel_weights[i] for i in layers]
        return operators.lpips_distance(x, y, weights, self.eps, self.eps_inside)[1]

    def gradients(
        self, layers: Sequence[int], x: list[Tensor], y: list[Tensor], grad: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        weights = [self.channel_weights[i] for i in layers]
        _, *found = operators.lpips_distance_with_gradient(x, y, weights, self.eps, self.eps_inside, grad, by_x, by_y)
        return tuple(found)

    def pixels(self, i: int, x: Tensor, y: Tensor) -> Tensor:  # (n, 1, H, W)
        """The distance of each pixel."""
        return operators.lpips_map([x], [y], [self.channel_weights[i]], self.eps, self.eps_inside)[0]

    def bound(self, i: int, x: Tensor, y: Tensor) -> Tensor:
        return self.pixel_bounds(i, x, y).amax((1, 2, 3)).mul_(4 / (x.shape[2] * x.shape[3]))

    def pixel_bounds(self, i: int, x: Tensor, y: Tensor) -> Tensor:  # (n, 1, H, W)
        """A quarter of an upper bound of each pixel's gradient magnitude with respect to x, from its distance alone."""
        # With e the error of unit vectors, neither |w_c e_c| nor |sum of w e x / length| is more than the root of the
        # sum of w^2 e^2, and the gradient is at most the sum of the two, twice, over the length.
        squares = self.channel_weights[i].square()
        (pulls,) = operators.lpips_map([x], [y], [squares], self.eps, self.eps_inside)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=pulls.dtype)
        if self.eps_inside:
            length = length.square_().add_(self.eps).sqrt_()
        torch.threshold_(length, 0, torch.inf)  # a pixel without features has no gradient
        return pulls.sqrt_().div_(length)


@dataclass(frozen=True)
class LpipsOfPixels(Lpips):
    """The weighted sum over pixels of their distances, in place of the mean.

    Attributes:
        weights_of: The weights of the pixels.
    """

    weights_of: WeightsOf

    def values(self, layers: Sequence[int], x: list[Tensor], y: list[Tensor]) -> Tensor:
        return self._summed(x, y, layers, self._weights(layers, x))

    def gradients(
        self, layers: Sequence[int], x: list[Tensor], y: list[Tensor], grad: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        weights = self._weights(layers, x)
        values = self._summed(x, y, layers, weights)
        if grad is not None:
            weights = [pixels * grad.view(-1, 1, 1, 1) for pixels in weights]
        upstream = [pixels.expand(z.shape[0], -1, -1, -1).contiguous() for pixels, z in zip(weights, x, strict=True)]
        return values, *operators.lpips_map_backward(upstream, x, y, *self._settings(layers), by_x, by_y)

    def bound(self, i: int, x: Tensor, y: Tensor) -> Tensor:
        return (self.pixel_bounds(i, x, y) * self.weights_of(i, x)).amax((1, 2, 3)).mul_(4)

    def _weights(self, layers: Sequence[int], x: list[Tensor]) -> list[Tensor]:
        return [self.weights_of(i, z) for i, z in zip(layers, x, strict=True)]

    def _summed(self, x: list[Tensor], y: list[Tensor], layers: Sequence[int], weights: list[Tensor]) -> Tensor:
        maps = operators.lpips_map(x, y, *self._settings(layers))
        return torch.stack([(map * pixels).sum((1, 2, 3)) for map, pixels in zip(maps, weights, strict=True)])

    def _settings(self, layers: Sequence[int]) -> tuple[list[Tensor], float, bool]:
        return [self.channel_weights[i] for i in layers], self.eps, self.eps_inside


@dataclass(frozen=True)
class Dists:
    """See `perceptual_ops.dists_distance`; alpha, beta: one (C,) per layer, of the accumulation dtype."""

    alpha: Sequence[Tensor]
    beta: Sequence[Tensor]

    def values(self, layers: Sequence[int], x: list[Tensor], y: list[Tensor]) -> Tensor:
        return operators.dists_distance(x, y, *self._numbers(layers))[1]

    def gradients(
        self, layers: Sequence[int], x: list[Tensor], y: list[Tensor], grad: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        numbers = self._numbers(layers)
        loss, values, statistics = operators.dists_distance(x, y, *numbers)
        upstream = torch.ones_like(loss) if grad is None else grad
        return values, *operators.dists_distance_backward(upstream, x, y, *numbers, statistics, by_x, by_y)

    def _numbers(self, layers: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        return [self.alpha[i] for i in layers], [self.beta[i] for i in layers]

    def bound(self, i: int, x: Tensor, y: Tensor) -> Tensor:
        return self.bound_by(self.statistics(i, x, y), i, x, y)

    def statistics(self, i: int, x: Tensor, y: Tensor) -> Tensor:  # (n, 6, C)
        """The sufficient statistics of the distance: means of x, y and x - y over the pixels, then variances."""
        *_, (found,) = operators.dists_distance([x], [y], *self._numbers([i]))
        return found

    def value_by(self, statistics: Tensor, i: int) -> Tensor:  # (n, 6, C) -> (n)
        """The distance by its statistics."""
        return dists_by_statistics(statistics, self.alpha[i], self.beta[i])

    def bound_by(self, statistics: Tensor, i: int, x: Tensor, y: Tensor) -> Tensor:  # (n)
        """See `Metric.bound`."""
        # The gradient of csrc/dists, with e - mean(e) and x - mean(x) at most twice the largest of what they are of.
        alpha, beta = self.alpha[i].abs(), self.beta[i].abs()
        x_mean, y_mean, e_mean, x_var, y_var, e_var = statistics.unbind(1)  # (n, C) each
        x_most, y_most = (torch.linalg.vector_norm(z, torch.inf, dim=(2, 3), dtype=x_mean.dtype) for z in (x, y))
        means = x_mean.square() + y_mean.square() + DISTS_EPS
        spread = x_var + y_var + DISTS_EPS
        by_means = alpha * (2 * e_mean.abs() / means + 2 * x_mean.abs() * (e_mean / means).square())
        by_structure = beta * 4 * ((x_most + y_most) / spread + x_most * e_var / spread.square())
        return (by_means + by_structure).amax(1) / (x.shape[2] * x.shape[3])


@dataclass(frozen=True)
class DistsOfTile(Dists):
    """The gradients of a tile's own region of both maps; the distance is the whole image's.

    Attributes:
        of_image: The statistics (n, 6, C) of each layer over the whole image.
        shares: What the part is of the whole image, by layer.
    """

    of_image: Sequence[Tensor]
    shares: Sequence[float]

    def gradients(
        self, layers: Sequence[int], x: list[Tensor], y: list[Tensor], grad: Tensor | None, by_x: bool, by_y: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        found: tuple[list[Tensor], list[Tensor]] = [], []
        for i, *pair in zip(layers, x, y, strict=True):
            upstream = self.of_image[i].new_full((pair[0].shape[0],), self.shares[i])
            made = operators.dists_distance_backward(
                upstream if grad is None else upstream * grad, *([z] for z in pair), *self._numbers([i]),
                [self.of_image[i]], by_x, by_y,
            )  # fmt: skip
            for gradients, gradient in zip(found, made, strict=True):
                gradients += gradient
        return self.values(layers, x, y), *found

    def values(self, layers: Sequence[int], x: list[Tensor], y: list[Tensor]) -> Tensor:
        return torch.stack([self.value_by(self.of_image[i], i) for i in layers])

    def bound(self, i: int, x: Tensor, y: Tensor) -> Tensor:
        return self.shares[i] * self.bound_by(self.of_image[i], i, x, y)


@dataclass
class DistsSums:
    """The statistics of an image, merged from those of its parts in fp64.

    Attributes:
        pixels: How many are in.
        moments: (n, 6, C): means of x, y and x - y, then their variances.
    """

    pixels: int = 0
    moments: Tensor | None = None

    def add(self, statistics: Tensor, pixels: int) -> None:  # (n, 6, C)
        """Merges a part."""
        wide = statistics.to(checks.widest(statistics.device))
        self.pixels += pixels
        self.moments = wide if self.moments is None else merged(self.moments, wide, pixels / self.pixels)

    def statistics(self, dtype: torch.dtype) -> Tensor:  # (n, 6, C)
        """Those of all parts."""
        assert self.moments is not None, "there is a part"
        return self.moments.to(dtype)
