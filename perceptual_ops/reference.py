"""The pure-PyTorch oracle of every operator: same names, same arguments, same numbers as `perceptual_ops.ops`.

Tests and benchmarks compare with it, and `backend="reference"` runs it. It is written to be read, differentiable as
often as torch is, and sums in fp32 (fp64 for fp64) whatever the dtype of the features and whether autocast is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _checks as checks
from ._autocast import autocast
from .names import Distance, FeatureDistance, GramNormalization, Reduction, Variation

DISTS_EPS = 1e-6  # c1 and c2 of the paper
DEVIATION_EPS = 1e-5  # added to a variance, as batch normalisation and AdaIN do: the root is then differentiable at 0
L2_POOL_EPS = 1e-12


def _widened(x: Tensor) -> Tensor:
    return x.to(checks.accumulator_dtype(x))


def distance_map(error: Tensor, distance: str, parameter: float) -> Tensor:
    """d(error) for every element; the formulas are those of `ops.feature_loss`."""
    if distance == "l1":
        return error.abs()
    if distance == "charbonnier":
        return (error.square() + parameter).sqrt()
    if distance == "huber":
        return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=parameter)
    if distance in ("mse", "sse"):
        return error.square()
    raise checks.unknown("distance", distance, checks.DISTANCES)


def sample_distances(error: Tensor, distance: str, parameter: float) -> Tensor:  # (N, ...) -> (N)
    """Mean of d over every axis but the first; the sum for "sse"."""
    values = distance_map(error, distance, parameter).flatten(1)
    return values.sum(1) if distance == "sse" else values.mean(1)


def weighted_sum(values: list[Tensor], weights: list[float]) -> tuple[Tensor, Tensor]:  # L x (N) -> (N), (L, N)
    """The weighted sum over the layers, and the layers' own values."""
    per_layer = torch.stack(values)
    loss = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        loss = loss + weight * value
    return loss, per_layer


def raw_gram_matrix(x: Tensor, normalize: str) -> Tensor:  # (N, C, H, W) -> (N, C, C)
    with autocast(x.device.type):
        flat = _widened(x).flatten(2)
        return flat @ flat.transpose(1, 2) / gram_divisor(normalize, *x.shape[1:])


def gram_divisor(normalize: str, channels: int, height: int, width: int) -> int:
    """What the Gram matrix of a map of that size is divided by."""
    divisors = {"none": 1, "hw": height * width, "chw": channels * height * width}
    if normalize not in divisors:
        raise checks.unknown("normalize", normalize, checks.NORMALIZATIONS)
    return divisors[normalize]


def style_terms(
    features: list[Tensor],
    target_grams: list[Tensor],
    weights: list[float],
    normalize: str,
    distance: str,
    parameter: float,
) -> tuple[Tensor, Tensor]:  # (N), (L, N)
    values = [
        sample_distances(raw_gram_matrix(x, normalize) - gram, distance, parameter)
        for x, gram in zip(features, target_grams, strict=True)
    ]
    return weighted_sum(values, weights)


def raw_channel_statistics(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, 2, C)
    flat = _widened(x).flatten(2)
    mean = flat.mean(2)
    variance = (flat - mean.unsqueeze(2)).square().mean(2)
    return torch.stack([mean, (variance + DEVIATION_EPS).sqrt()], 1)


def statistics_terms(
    statistics: list[Tensor],  # L x (N, 2, C)
    targets: list[Tensor],  # L x (N or 1, 2, C)
    weights: list[float],
    distance: str,
    parameter: float,
) -> tuple[Tensor, Tensor]:  # (N), (L, N)
    """Distance of the means plus that of the deviations."""
    errors = [found - target for found, target in zip(statistics, targets, strict=True)]
    halves = [[sample_distances(half, distance, parameter) for half in error.unbind(1)] for error in errors]
    return weighted_sum([of_means + of_deviations for of_means, of_deviations in halves], weights)


def feature_terms(
    features: list[Tensor], targets: list[Tensor], weights: list[float], distance: str, parameter: float
) -> tuple[Tensor, Tensor]:  # (N), (L, N)
    if distance == "cosine":  # half the squared error of unit vectors
        maps = lpips_maps(features, targets, checks.halves(features), checks.COSINE_EPS, False)
        return weighted_sum([pixels.mean((1, 2, 3)) for pixels in maps], weights)
    values = [
        sample_distances(_widened(x) - _widened(y), distance, parameter) for x, y in zip(features, targets, strict=True)
    ]
    return weighted_sum(values, weights)


def variation(x: Tensor, kind: str) -> Tensor:  # (N, C, H, W) -> (N)
    """The sums of "l1" and "l2_squared"; "l2" is the root of the latter."""
    x = _widened(x)
    right, down = x[:, :, :, 1:] - x[:, :, :, :-1], x[:, :, 1:] - x[:, :, :-1]
    if kind == "l1":
        return right.abs().flatten(1).sum(1) + down.abs().flatten(1).sum(1)
    if kind == "l2_squared":
        return right.square().flatten(1).sum(1) + down.square().flatten(1).sum(1)
    raise checks.unknown("kind", kind, checks.VARIATIONS)


def root(x: Tensor) -> Tensor:
    """sqrt(x) whose gradient at 0 is 0, not NaN."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1).sqrt(), x)


def unit_features(x: Tensor, eps: float, eps_inside: bool) -> Tensor:
    """Each pixel's channels divided by their length, as `ops.lpips_distance` says."""
    x = _widened(x)
    squares = x.square().sum(1, keepdim=True)
    if eps_inside:
        return x / (squares + eps).sqrt()
    # A pixel whose features are all 0 gets no gradient.
    return torch.where(squares == 0, torch.zeros_like(x), x) / (root(squares) + eps)


def lpips_maps(
    features: list[Tensor], targets: list[Tensor], channel_weights: list[Tensor], eps: float, eps_inside: bool
) -> list[Tensor]:  # L x (N, 1, H, W)
    maps = []
    for x, y, weights in zip(features, targets, channel_weights, strict=True):
        error = unit_features(x, eps, eps_inside) - unit_features(y, eps, eps_inside)
        maps.append((weights.view(1, -1, 1, 1) * error.square()).sum(1, keepdim=True))
    return maps


def lpips_terms(
    features: list[Tensor], targets: list[Tensor], channel_weights: list[Tensor], eps: float, eps_inside: bool
) -> tuple[Tensor, Tensor]:  # (N), (L, N)
    maps = lpips_maps(features, targets, channel_weights, eps, eps_inside)
    return weighted_sum([pixels.mean((1, 2, 3)) for pixels in maps], [1.0] * len(maps))


def dists_terms(
    features: list[Tensor], targets: list[Tensor], alpha: list[Tensor], beta: list[Tensor]
) -> tuple[Tensor, Tensor]:  # (N), (L, N)
    values = []
    for x, y, of_means, of_structures in zip(features, targets, alpha, beta, strict=True):
        x, y = _widened(x).flatten(2), _widened(y).flatten(2)
        pair = x, y.expand_as(x), x - y
        means = [z.mean(2) for z in pair]
        variances = [(z - mean.unsqueeze(2)).square().mean(2) for z, mean in zip(pair, means, strict=True)]
        values.append(dists_by_statistics(torch.stack([*means, *variances], 1), of_means, of_structures))
    return weighted_sum(values, [1.0] * len(values))


def dists_by_statistics(statistics: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:  # (N, 6, C), (C), (C) -> (N)
    """The distance from the means of x, y and x - y over the pixels, and their variances."""
    x_mean, y_mean, e_mean, x_var, y_var, e_var = statistics.unbind(1)
    means = e_mean.square() / (x_mean.square() + y_mean.square() + DISTS_EPS)
    structures = e_var / (x_var + y_var + DISTS_EPS)
    return (alpha * means + beta * structures).sum(1)


def binomial_filter(x: Tensor) -> Tensor:  # (N, C, H, W) -> (C, 1, 3, 3)
    """[1, 2, 1] / 4 both ways, for each channel of x."""
    binomial = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    return torch.outer(binomial, binomial).expand(x.shape[1], 1, 3, 3)


def l2_pool(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H', W')
    """DISTS's pooling, see csrc/library.cpp; in x's dtype, with the arithmetic of its accumulator."""
    kernel = binomial_filter(_widened(x))
    with autocast(x.device.type):
        squares = F.conv2d(_widened(x).square(), kernel, stride=2, padding=1, groups=x.shape[1])
    return (squares + L2_POOL_EPS).sqrt().to(x.dtype)


def gram_matrix(x: Tensor, normalize: GramNormalization = "chw") -> Tensor:
    """See `perceptual_ops.gram_matrix`."""
    checks.check_map("x", x)
    checks.check_choice("normalize", normalize, checks.NORMALIZATIONS)
    return raw_gram_matrix(x, normalize)


def channel_statistics(x: Tensor) -> Tensor:
    """See `perceptual_ops.channel_statistics`."""
    checks.check_map("x", x)
    return raw_channel_statistics(x)


def style_loss(
    features: Sequence[Tensor],
    target_grams: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    normalize: GramNormalization = "chw",
    distance: Distance = "mse",
    reduction: Reduction = "mean",
    *,
    eps: float = 1e-6,
    delta: float = 1.0,
) -> Tensor:
    """See `perceptual_ops.style_loss`."""
    checks.check_choice("normalize", normalize, checks.NORMALIZATIONS)
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    parameter = checks.check_distance(distance, eps, delta)
    maps = checks.check_features(features)
    grams = checks.check_target_grams(target_grams, maps)
    loss, _ = style_terms(maps, grams, checks.check_weights(weights, len(maps)), normalize, distance, parameter)
    return checks.reduce(loss, reduction)


def feature_loss(
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    distance: FeatureDistance = "mse",
    reduction: Reduction = "mean",
    *,
    eps: float = 1e-6,
    delta: float = 1.0,
) -> Tensor:
    """See `perceptual_ops.feature_loss`."""
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    parameter = checks.check_distance(distance, eps, delta, checks.CONTENT_DISTANCES)
    maps = checks.check_features(features)
    target_maps = checks.check_targets(targets, maps)
    loss, _ = feature_terms(maps, target_maps, checks.check_weights(weights, len(maps)), distance, parameter)
    return checks.reduce(loss, reduction)


def total_variation(x: Tensor, kind: Variation = "l2_squared", reduction: Reduction = "mean") -> Tensor:
    """See `perceptual_ops.total_variation`."""
    checks.check_map("x", x)
    checks.check_choice("kind", kind, checks.VARIATIONS)
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    value = root(variation(x, "l2_squared")) if kind == "l2" else variation(x, kind)
    return checks.reduce(value, reduction)


@overload
def lpips_distance(
    features: Sequence[Tensor], targets: Sequence[Tensor], channel_weights: Sequence[Tensor], eps: float = ...,
    eps_inside: bool = ..., reduction: Reduction = ..., *, spatial: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip


@overload
def lpips_distance(
    features: Sequence[Tensor], targets: Sequence[Tensor], channel_weights: Sequence[Tensor], eps: float = ...,
    eps_inside: bool = ..., reduction: Literal["none"] = ..., *, spatial: Literal[True],
) -> list[Tensor]: ...  # fmt: skip


@overload
def lpips_distance(
    features: Sequence[Tensor], targets: Sequence[Tensor], channel_weights: Sequence[Tensor], eps: float = ...,
    eps_inside: bool = ..., reduction: Literal["none"] = ..., *, spatial: bool,
) -> Tensor | list[Tensor]: ...  # fmt: skip


def lpips_distance(
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    channel_weights: Sequence[Tensor],
    eps: float = 1e-10,
    eps_inside: bool = False,
    reduction: Reduction = "none",
    *,
    spatial: bool = False,
) -> Tensor | list[Tensor]:
    """See `perceptual_ops.lpips_distance`."""
    eps = checks.check_lpips_settings(eps, eps_inside, reduction, spatial)
    maps = checks.check_features(features)
    target_maps = checks.check_targets(targets, maps)
    weights = checks.check_channel_weights("channel_weights", channel_weights, maps)
    if spatial:
        return lpips_maps(maps, target_maps, weights, eps, eps_inside)
    return checks.reduce(lpips_terms(maps, target_maps, weights, eps, eps_inside)[0], reduction)


def dists_distance(
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    alpha: Sequence[Tensor],
    beta: Sequence[Tensor],
    reduction: Reduction = "none",
) -> Tensor:
    """See `perceptual_ops.dists_distance`."""
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    maps = checks.check_features(features)
    target_maps = checks.check_targets(targets, maps)
    of_means = checks.check_channel_weights("alpha", alpha, maps)
    of_structures = checks.check_channel_weights("beta", beta, maps)
    return checks.reduce(dists_terms(maps, target_maps, of_means, of_structures)[0], reduction)
