"""Grams, style and feature losses and total variation: the operators of csrc/gram, feature_loss, total_variation.

Gradients are written out: torch runs an operator below autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks as checks
from .. import reference
from .strides import strided_like
from .unit_features import pixel_gradients


def _slope(error: Tensor, distance: str, parameter: float) -> Tensor:
    """d'(error) for every element, see `reference.distance_map`; a map of its own."""
    if distance == "l1":
        return error.sign()
    if distance == "charbonnier":
        return error / (error.square() + parameter).sqrt_()
    if distance == "huber":
        return error.clamp(-parameter, parameter)
    if distance in ("mse", "sse"):
        return 2 * error
    raise checks.unknown("distance", distance, checks.DISTANCES)


def _sample_slopes(error: Tensor, distance: str, parameter: float) -> Tensor:  # (N, ...)
    """The gradient of `reference.sample_distances`."""
    count = 1 if distance == "sse" else max(error[:1].numel(), 1)
    return _slope(error, distance, parameter).div_(count)


def _each(numbers: Tensor | None, like: Tensor) -> Tensor | float:  # (N) -> (N, 1, ...)
    return 1.0 if numbers is None else numbers.view(-1, *[1] * (like.dim() - 1))


def gram_matrix(x: Tensor, normalize: str) -> Tensor:
    return reference.raw_gram_matrix(x, normalize)


def gram_matrix_backward(grad: Tensor, x: Tensor, normalize: str) -> Tensor:
    slope = (grad + grad.mT) / reference.gram_divisor(normalize, *x.shape[1:])
    return _by_features(slope, x, None)


def _by_features(slope: Tensor, x: Tensor, other: Tensor | None) -> Tensor:  # (N, C, C), (N, C, H, W)
    """From the slope by a raw Gram, symmetrised, to that by the features, plus another."""
    with torch.autocast(x.device.type, enabled=False):
        product = (slope @ x.to(slope.dtype).flatten(2)).view(x.shape)
    return strided_like(x, product if other is None else product.add_(other))


def style_loss(
    features: list[Tensor],
    target_grams: list[Tensor],
    weights: list[float],
    normalize: str,
    distance: str,
    parameter: float,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    values, slopes = [], []
    for x, gram, weight in zip(features, target_grams, weights, strict=True):
        error = reference.raw_gram_matrix(x, normalize) - gram
        values.append(reference.sample_distances(error, distance, parameter))
        slope = _sample_slopes(error, distance, parameter).mul_(weight / reference.gram_divisor(normalize, *x.shape[1:]))
        slopes.append(slope + slope.mT)
    return *reference.weighted_sum(values, weights), slopes


def style_loss_backward(
    grad: Tensor | None, features: list[Tensor], slopes: list[Tensor], others: list[Tensor | None]
) -> list[Tensor]:
    return [
        _by_features(slope * _each(grad, slope), x, other)
        for x, slope, other in zip(features, slopes, others, strict=True)
    ]


def feature_loss(
    features: list[Tensor], targets: list[Tensor], weights: list[float], distance: str, parameter: float
) -> tuple[Tensor, Tensor]:
    return reference.feature_terms(features, targets, weights, distance, parameter)


def feature_loss_backward(
    grad: Tensor | None,
    features: list[Tensor],
    targets: list[Tensor],
    weights: list[float],
    distance: str,
    parameter: float,
) -> list[Tensor]:
    if distance == "cosine":
        found = []
        for x, y, half, weight in zip(features, targets, checks.halves(features), weights, strict=True):
            upstream = half.new_full((x.shape[0], 1, 1, 1), weight / max(x[0, 0].numel(), 1)) * _each(grad, x)
            found += pixel_gradients(x, y, half, checks.COSINE_EPS, False, upstream, True, False)
        return found
    slopes = []
    for x, y, weight in zip(features, targets, weights, strict=True):
        error = x.to(checks.accumulator_dtype(x)) - y
        slopes.append(strided_like(x, _sample_slopes(error, distance, parameter).mul_(_each(grad, error)).mul_(weight)))
    return slopes


def feature_loss_with_gradient(
    features: list[Tensor],
    targets: list[Tensor],
    weights: list[float],
    distance: str,
    parameter: float,
    grad: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    settings = features, targets, weights, distance, parameter
    return *feature_loss(*settings), feature_loss_backward(grad, *settings)


def total_variation(x: Tensor, kind: str) -> Tensor:
    return reference.variation(x, kind)


def total_variation_backward(grad: Tensor | None, x: Tensor, kind: str) -> Tensor:
    distance = {"l1": "l1", "l2_squared": "sse"}.get(kind)
    if distance is None:
        raise checks.unknown("kind", kind, checks.VARIATIONS)
    wide = x.to(checks.accumulator_dtype(x))
    found = torch.zeros_like(wide)
    for dim in (2, 3):
        length = x.shape[dim] - 1
        slope = _slope(wide.narrow(dim, 1, max(length, 0)) - wide.narrow(dim, 0, max(length, 0)), distance, 0.0)
        found.narrow(dim, 1, max(length, 0)).add_(slope)
        found.narrow(dim, 0, max(length, 0)).sub_(slope)
    return strided_like(x, found.mul_(_each(grad, found)))


def total_variation_with_gradient(x: Tensor, kind: str, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return total_variation(x, kind), total_variation_backward(grad, x, kind)
