"""LPIPS and DISTS over feature maps: the operators of csrc/lpips and csrc/dists."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks as checks
from .. import reference
from .strides import strided_like
from .unit_features import pixel_gradients

Gradients = tuple[list[Tensor], list[Tensor]]  # by features and by targets, one per sample; empty where not wanted


def lpips_distance(
    features: list[Tensor], targets: list[Tensor], channel_weights: list[Tensor], eps: float, eps_inside: bool
) -> tuple[Tensor, Tensor]:
    return reference.lpips_terms(features, targets, channel_weights, eps, eps_inside)


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
    upstreams = []
    for x, weights in zip(features, channel_weights, strict=True):
        share = weights.new_full((x.shape[0], 1, 1, 1), 1 / max(x[0, 0].numel(), 1))  # of a pixel in the mean
        upstreams.append(share if grad is None else share * grad.view(-1, 1, 1, 1))
    return lpips_map_backward(upstreams, features, targets, channel_weights, eps, eps_inside, by_features, by_targets)


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
    settings = features, targets, channel_weights, eps, eps_inside
    return *lpips_distance(*settings), *lpips_distance_backward(grad, *settings, by_features, by_targets)


def lpips_map(
    features: list[Tensor], targets: list[Tensor], channel_weights: list[Tensor], eps: float, eps_inside: bool
) -> list[Tensor]:
    return reference.lpips_maps(features, targets, channel_weights, eps, eps_inside)


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
    found = [
        pixel_gradients(x, y, weights, eps, eps_inside, grad, by_features, by_targets)
        for x, y, weights, grad in zip(features, targets, channel_weights, grads, strict=True)
    ]
    by_both = [list(gradients) for gradients in zip(*found, strict=True)]
    return by_both[0] if by_features else [], by_both[-1] if by_targets else []


def dists_distance(
    features: list[Tensor], targets: list[Tensor], alpha: list[Tensor], beta: list[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    statistics = [_statistics(x, y) for x, y in zip(features, targets, strict=True)]
    return *reference.dists_terms(features, targets, alpha, beta), statistics


def _statistics(x: Tensor, y: Tensor) -> Tensor:  # (N, C, H, W), (N or 1, C, H, W) -> (N, 6, C)
    """The means of x, y and x - y over their pixels, then their variances."""
    x, y = (z.to(checks.accumulator_dtype(z)).flatten(2) for z in (x, y.expand_as(x)))
    variances, means = zip(*(torch.var_mean(z, 2, correction=0) for z in (x, y, x - y)), strict=True)
    return torch.stack([*means, *variances], dim=1)


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
    of_x, of_y = [], []
    for x, y, known, *weights in zip(features, targets, statistics, alpha, beta, strict=True):
        slopes = _dists_slopes(known, *weights) * (grad.view(-1, 1, 1) / max(x[0, 0].numel(), 1))
        slope, mean = (z.view(*z.shape, 1, 1).unbind(1) for z in (slopes, known))
        wide, other = x.to(known.dtype), y.to(known.dtype).expand_as(x)
        error = 2 * slope[5] * (wide - other - mean[2])
        if by_features:
            of_x.append(strided_like(x, 2 * slope[3] * (wide - mean[0]) + error + (slope[0] + slope[2])))
        if by_targets:
            of_y.append(strided_like(x, 2 * slope[4] * (other - mean[1]) - error + (slope[1] - slope[2])))
    return of_x, of_y


def _dists_slopes(statistics: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:  # (N, 6, C), (C), (C) -> (N, 6, C)
    """Those of the distance by the statistics."""
    x, y, error, *variances = statistics.unbind(1)
    means = x.square() + y.square() + reference.DISTS_EPS
    by_square = -2 * alpha * error.square() / means.square()
    spread = variances[0] + variances[1] + reference.DISTS_EPS
    by_spread = -beta * variances[2] / spread.square()
    return torch.stack([by_square * x, by_square * y, 2 * alpha * error / means, by_spread, by_spread, beta / spread], 1)
