"""LPIPS and DISTS over feature maps: the operators of csrc/lpips and csrc/dists."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from .blocks import map_of_blocks
from .moments import channel_moments, per_pixel
from .unit_features import pixel_terms

Gradients = tuple[list[Tensor], list[Tensor]]  # by features and by targets, one per sample; empty where not wanted


def lpips_distance(
    features: list[Tensor], targets: list[Tensor], channel_weights: list[Tensor], eps: float, eps_inside: bool
) -> tuple[Tensor, Tensor]:
    maps = lpips_map(features, targets, channel_weights, eps, eps_inside)
    return reference.weighted_sum([pixels.mean((1, 2, 3)) for pixels in maps], [1.0] * len(maps))


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
    settings = features, targets, channel_weights, eps, eps_inside
    return lpips_distance_with_gradient(*settings, grad, by_features, by_targets)[2:]


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
    upstreams = []
    for x, weights in zip(features, channel_weights, strict=True):
        share = weights.new_full((x.shape[0], 1, 1, 1), 1 / max(x.shape[2:].numel(), 1))  # of a pixel in the mean
        upstreams.append(share if grad is None else share * grad.view(-1, 1, 1, 1))
    settings = features, targets, channel_weights, eps, eps_inside
    maps, of_x, of_y = _maps_and_gradients(*settings, upstreams, by_features, by_targets)
    values = [pixels.mean((1, 2, 3)) for pixels in maps]
    return *reference.weighted_sum(values, [1.0] * len(values)), of_x, of_y


def lpips_map(
    features: list[Tensor], targets: list[Tensor], channel_weights: list[Tensor], eps: float, eps_inside: bool
) -> list[Tensor]:
    return [
        pixel_terms(x, y, weights, eps, eps_inside, None, False, False)[0]
        for x, y, weights in zip(features, targets, channel_weights, strict=True)
    ]


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
    settings = features, targets, channel_weights, eps, eps_inside
    return _maps_and_gradients(*settings, grads, by_features, by_targets)[1:]


def _maps_and_gradients(
    features: list[Tensor],
    targets: list[Tensor],
    channel_weights: list[Tensor],
    eps: float,
    eps_inside: bool,
    upstreams: list[Tensor],
    by_features: bool,
    by_targets: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    found = [
        pixel_terms(x, y, weights, eps, eps_inside, upstream, by_features, by_targets)
        for x, y, weights, upstream in zip(features, targets, channel_weights, upstreams, strict=True)
    ]
    of_x = [gradients[0] for _, gradients in found] if by_features else []
    of_y = [gradients[-1] for _, gradients in found] if by_targets else []
    return [pixels for pixels, _ in found], of_x, of_y


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
    """By the statistics that are given: they may be of more pixels than the maps have."""
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

    Added up last, the terms of an x whose y is constant would leave nothing but their rounding.
    """
    y = y.expand_as(x)
    own = x if side > 0 else y

    def make(rows: slice) -> Tensor:
        error = (x[:, :, rows].to(mean.dtype) - y[:, :, rows]).sub_(mean_error)
        error.addcmul_(own[:, :, rows].to(mean.dtype) - mean, ratio, value=-side)
        return error.mul_(by_error).add_(base)

    return map_of_blocks(x, make)
