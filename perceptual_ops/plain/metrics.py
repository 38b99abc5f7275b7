"""LPIPS and DISTS over feature maps: the operators of csrc/lpips and csrc/dists."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import reference
from .blocks import map_of_blocks
from .moments import channel_moments, per_pixel
from .unit_features import pixel_terms, pixel_values

Gradients = tuple[
    list[Tensor], list[Tensor]
]  # with respect to features and targets, one per sample; empty where not wanted


def lpips_distance(
    features: list[Tensor], targets: list[Tensor], channel_weights: list[Tensor], eps: float, eps_inside: bool
) -> tuple[Tensor, Tensor]:
    return _means(lpips_map(features, targets, channel_weights, eps, eps_inside))


def lpips_distance_backward(
    grad: Tensor | None,
    features: list[Tensor],
    targets: list[Tensor],
    channel_weights: list[Tensor],
    eps: float,
    eps_inside: bool,
    by_features: bool,
    by_targets: bool,
) -> Gradients:
    terms = features, targets, channel_weights, eps, eps_inside
    upstreams = _upstreams(features, channel_weights, grad)
    return _gradients(*terms, [None] * len(features), upstreams, by_features, by_targets)


def lpips_distance_with_gradient(
    features: list[Tensor],
    targets: list[Tensor],
    channel_weights: list[Tensor],
    eps: float,
    eps_inside: bool,
    grad: Tensor | None,
    by_features: bool,
    by_targets: bool,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    terms = features, targets, channel_weights, eps, eps_inside
    maps = list(map(pixel_values, features))
    gradients = _gradients(*terms, maps, _upstreams(features, channel_weights, grad), by_features, by_targets)
    return *_means(maps), *gradients


def lpips_map(
    features: list[Tensor], targets: list[Tensor], channel_weights: list[Tensor], eps: float, eps_inside: bool
) -> list[Tensor]:
    maps = list(map(pixel_values, features))
    for x, y, weights, values in zip(features, targets, channel_weights, maps, strict=True):
        pixel_terms(x, y, weights, eps, eps_inside, values)
    return maps


def lpips_map_backward(
    grads: list[Tensor],
    features: list[Tensor],
    targets: list[Tensor],
    channel_weights: list[Tensor],
    eps: float,
    eps_inside: bool,
    by_features: bool,
    by_targets: bool,
) -> Gradients:
    terms = features, targets, channel_weights, eps, eps_inside
    return _gradients(*terms, [None] * len(features), grads, by_features, by_targets)


def _means(maps: list[Tensor]) -> tuple[Tensor, Tensor]:  # L x (N, 1, H, W) -> (N), (L, N)
    return reference.weighted_sum([pixels.mean((1, 2, 3)) for pixels in maps], [1.0] * len(maps))


def _upstreams(features: list[Tensor], channel_weights: list[Tensor], grad: Tensor | None) -> list[Tensor]:
    """The upstream gradient of each pixel (N, 1, 1, 1): its share of the mean times grad (N)."""
    upstreams = []
    for x, weights in zip(features, channel_weights, strict=True):
        share = weights.new_full((x.shape[0], 1, 1, 1), 1 / max(x.shape[2:].numel(), 1))
        upstreams.append(share if grad is None else share * grad.view(-1, 1, 1, 1))
    return upstreams


def _gradients(
    features: list[Tensor],
    targets: list[Tensor],
    channel_weights: list[Tensor],
    eps: float,
    eps_inside: bool,
    maps: Sequence[Tensor | None],  # L x (N, 1, H, W), written if given
    upstreams: list[Tensor],  # L x (N, 1, 1 or H, 1 or W)
    by_features: bool,
    by_targets: bool,
) -> Gradients:
    wanted = by_features, by_targets
    layers = zip(features, targets, channel_weights, maps, upstreams, strict=True)
    found = [
        pixel_terms(x, y, weights, eps, eps_inside, values, upstream, *wanted)
        for x, y, weights, values, upstream in layers
    ]
    of_x, of_y = ([of_layer[i] for of_layer in found] if one else [] for i, one in ((0, by_features), (-1, by_targets)))
    return of_x, of_y


def dists_distance(
    features: list[Tensor], targets: list[Tensor], alpha: list[Tensor], beta: list[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    statistics = [channel_moments(x, y) for x, y in zip(features, targets, strict=True)]
    values = [
        reference.dists_by_statistics(known, *weights) for known, *weights in zip(statistics, alpha, beta, strict=True)
    ]
    return *reference.weighted_sum(values, [1.0] * len(values)), statistics


def dists_distance_backward(
    grad: Tensor,
    features: list[Tensor],
    targets: list[Tensor],
    alpha: list[Tensor],
    beta: list[Tensor],
    statistics: list[Tensor],
    by_features: bool,
    by_targets: bool,
) -> Gradients:
    """The gradient for given statistics, which may be of more pixels than the maps have."""
    of_x: list[Tensor] = []
    of_y: list[Tensor] = []
    for x, y, known, of_means, of_structures in zip(features, targets, statistics, alpha, beta, strict=True):
        factor = 2 * grad.view(-1, 1) / max(x.shape[2:].numel(), 1)
        mean_x, mean_y, mean_error, *variances = known.unbind(1)
        by_mean = mean_error / (mean_x.square() + mean_y.square() + reference.DISTS_EPS)
        spread = variances[0] + variances[1] + reference.DISTS_EPS
        ratio, by_error = variances[2] / spread, factor * of_structures / spread
        for wanted, side, mean, found in ((by_features, 1, mean_x, of_x), (by_targets, -1, mean_y, of_y)):
            if wanted:
                base = side * factor * of_means * by_mean * (1 - side * mean * by_mean)
                numbers = [per_pixel(z) for z in (mean_error, mean, ratio, side * by_error, base)]
                found.append(_dists_gradient(x, y, side, *numbers))
    return of_x, of_y


def _dists_gradient(
    x: Tensor, y: Tensor, side: int, mean_error: Tensor, mean: Tensor, ratio: Tensor, by_error: Tensor, base: Tensor
) -> Tensor:
    """by_error ((x - y - its mean) -+ ratio (own - its mean)) + base, where own is x for side 1, y for -1.

    Summed in another order, the terms of an x whose y is constant would cancel to their rounding errors.
    """
    y = y.expand_as(x)
    own = x if side > 0 else y

    def make(rows: slice) -> Tensor:
        error = (x[:, :, rows].to(mean.dtype) - y[:, :, rows]).sub_(mean_error)
        error.addcmul_(own[:, :, rows].to(mean.dtype) - mean, ratio, value=-side)
        return error.mul_(by_error).add_(base)

    return map_of_blocks(x, make)
