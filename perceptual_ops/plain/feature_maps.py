"""Grams, style and feature losses and total variation: the operators of csrc/gram, feature_loss, total_variation.

Gradients are explicit, since torch runs operators below autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks as checks
from .. import reference
from .blocks import map_of_blocks, row_blocks
from .moments import channel_moments, per_pixel
from .unit_features import pixel_terms, pixel_values

CHAIN = 4096  # pixels whose products are accumulated in one chain: rounding errors grow with its length


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
    count = 1 if distance == "sse" else max(error.shape[1:].numel(), 1)
    return _slope(error, distance, parameter).div_(count)


def _each(numbers: Tensor | None, like: Tensor) -> Tensor | float:  # (N) -> (N, 1, ...)
    return 1.0 if numbers is None else numbers.view(-1, *[1] * (like.dim() - 1))


def gram_matrix(x: Tensor, normalize: str) -> Tensor:
    if x.dtype == checks.accumulator_dtype(x):
        return reference.raw_gram_matrix(x, normalize)
    gram = torch.zeros(x.shape[0], x.shape[1], x.shape[1], dtype=torch.float32, device=x.device)
    for rows in row_blocks(x):
        for part in x[:, :, rows].flatten(2).split(CHAIN, 2):
            wide = part.float()
            gram += wide @ wide.mT
    return gram.div_(reference.gram_divisor(normalize, *x.shape[1:]))


def gram_matrix_backward(grad: Tensor, x: Tensor, normalize: str) -> Tensor:
    slope = (grad + grad.mT) / reference.gram_divisor(normalize, *x.shape[1:])
    return _by_features(slope, x, None)


def _by_features(slope: Tensor, x: Tensor, other: Tensor | None) -> Tensor:  # (N, C, C), (N, C, H, W)
    """From d loss / d raw Gram, symmetrised, to d loss / d features, plus another gradient."""

    is_nhwc = x.stride(1) == 1 < x.shape[1]

    def make(rows: slice) -> Tensor:
        part = x[:, :, rows].to(slope.dtype)
        if is_nhwc:  # the product in the same layout; the slope is symmetric
            pixels = part.permute(0, 2, 3, 1)
            product = torch.bmm(pixels.flatten(1, 2), slope).view(pixels.shape).permute(0, 3, 1, 2)
        else:
            product = torch.bmm(slope, part.flatten(2)).view(part.shape)
        return product if other is None else product.add_(other[:, :, rows])

    return map_of_blocks(x, make)


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
        error = gram_matrix(x, normalize) - gram
        values.append(reference.sample_distances(error, distance, parameter))
        slope = _sample_slopes(error, distance, parameter).mul_(
            weight / reference.gram_divisor(normalize, *x.shape[1:])
        )
        slopes.append(slope + slope.mT)
    return *reference.weighted_sum(values, weights), slopes


def style_loss_backward(
    grad: Tensor | None, features: list[Tensor], slopes: list[Tensor], others: list[Tensor | None]
) -> list[Tensor]:
    return [
        _by_features(slope * _each(grad, slope), x, other)
        for x, slope, other in zip(features, slopes, others, strict=True)
    ]


def channel_statistics(features: list[Tensor]) -> list[Tensor]:
    results = []
    for x in features:
        mean, variance = channel_moments(x).unbind(1)
        results.append(torch.stack([mean, (variance + reference.DEVIATION_EPS).sqrt()], 1))
    return results


def channel_statistics_backward(
    grad: Tensor | None,
    features: list[Tensor],
    statistics: list[Tensor],
    slopes: list[Tensor],
    pixels: list[int],
    others: list[Tensor | None],
) -> list[Tensor]:
    gradients = []
    for x, known, slope, count, other in zip(features, statistics, slopes, pixels, others, strict=True):
        of_mean, of_deviation = (slope * (_each(grad, slope) / max(count, 1))).unbind(1)
        mean, deviation = known.unbind(1)
        base, factor, center = (per_pixel(z) for z in (of_mean, of_deviation / deviation, mean))
        gradients.append(_deviations_backward(x, base, factor, center, other))
    return gradients


def _deviations_backward(x: Tensor, base: Tensor, factor: Tensor, mean: Tensor, other: Tensor | None) -> Tensor:
    """base + factor (x - mean), plus another."""

    def make(rows: slice) -> Tensor:
        result = (x[:, :, rows].to(mean.dtype) - mean).mul_(factor).add_(base)
        return result if other is None else result.add_(other[:, :, rows])

    return map_of_blocks(x, make)


def feature_loss(
    features: list[Tensor], targets: list[Tensor], weights: list[float], distance: str, parameter: float
) -> tuple[Tensor, Tensor]:
    values = list(map(_no_value, features))
    for x, y, value in zip(features, targets, values, strict=True):
        _feature_layer(x, y, distance, parameter, value, None)
    return reference.weighted_sum(values, weights)


def feature_loss_backward(
    grad: Tensor | None,
    features: list[Tensor],
    targets: list[Tensor],
    weights: list[float],
    distance: str,
    parameter: float,
) -> list[Tensor]:
    layers = zip(features, targets, weights, strict=True)
    return [_feature_layer(x, y, distance, parameter, None, _upstream(x, weight, grad)) for x, y, weight in layers]


def feature_loss_with_gradient(
    features: list[Tensor],
    targets: list[Tensor],
    weights: list[float],
    distance: str,
    parameter: float,
    grad: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    values = list(map(_no_value, features))
    layers = zip(features, targets, weights, values, strict=True)
    gradients = [
        _feature_layer(x, y, distance, parameter, value, _upstream(x, weight, grad)) for x, y, weight, value in layers
    ]
    return *reference.weighted_sum(values, weights), gradients


def _no_value(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N), to be added to
    return x.new_zeros(x.shape[0], dtype=checks.accumulator_dtype(x))


def _upstream(x: Tensor, weight: float, grad: Tensor | None) -> Tensor:  # (N, C, H, W) -> (N)
    upstream = x.new_full((x.shape[0],), weight, dtype=checks.accumulator_dtype(x))
    return upstream if grad is None else upstream * grad


def _feature_layer(
    x: Tensor,  # (N, C, H, W)
    y: Tensor,  # (N or 1, C, H, W)
    distance: str,
    parameter: float,
    value: Tensor | None,  # (N)
    upstream: Tensor | None,  # (N)
) -> Tensor:
    """Adds the distance to value; returns its gradient times upstream, or None without upstream."""
    dtype = checks.accumulator_dtype(x)
    if distance == "cosine":
        return _cosine_layer(x, y, value, upstream)
    made = torch.empty_like(x) if upstream is not None else x.new_empty(0)
    count = 1 if distance == "sse" else max(x.shape[1:].numel(), 1)
    for rows in row_blocks(x):
        error = x[:, :, rows].to(dtype) - y[:, :, rows]
        if value is not None:
            value += reference.distance_map(error, distance, parameter).sum((1, 2, 3))
        if upstream is not None:
            slope = _slope(error, distance, parameter).mul_(_each(upstream / count, error))
            made[:, :, rows].copy_(slope)
    if value is not None:
        value /= count
    return made


def _cosine_layer(x: Tensor, y: Tensor, value: Tensor | None, upstream: Tensor | None) -> Tensor:
    (half,) = checks.halves([x])
    pixels = None if value is None else pixel_values(x)
    of_pixel = upstream if upstream is None else (upstream / max(x.shape[2:].numel(), 1)).view(-1, 1, 1, 1)
    gradients = pixel_terms(x, y, half, checks.COSINE_EPS, False, pixels, of_pixel, upstream is not None)
    if value is not None and pixels is not None:
        value += pixels.mean((1, 2, 3))
    return gradients[0] if gradients else x.new_empty(0)


def total_variation(x: Tensor, kind: str) -> Tensor:
    return reference.variation(x, kind)


def total_variation_backward(grad: Tensor | None, x: Tensor, kind: str) -> Tensor:
    distance = {"l1": "l1", "l2_squared": "sse"}.get(kind)
    if distance is None:
        raise checks.unknown("kind", kind, checks.VARIATIONS)
    wide = x.to(checks.accumulator_dtype(x))
    gradient = torch.zeros_like(wide)
    for dim in (2, 3):
        length = x.shape[dim] - 1
        slope = _slope(wide.narrow(dim, 1, max(length, 0)) - wide.narrow(dim, 0, max(length, 0)), distance, 0.0)
        gradient.narrow(dim, 1, max(length, 0)).add_(slope)
        gradient.narrow(dim, 0, max(length, 0)).sub_(slope)
    return torch.empty_like(x).copy_(gradient.mul_(_each(grad, gradient)))


def total_variation_with_gradient(x: Tensor, kind: str, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return total_variation(x, kind), total_variation_backward(grad, x, kind)
