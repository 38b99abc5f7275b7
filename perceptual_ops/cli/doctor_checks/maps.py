"""The operators over feature maps: Grams, style and feature losses, LPIPS, DISTS, total variation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import _checks as checks
from ... import reference
from .cases import Cases, Data, cases_of, flat, gradients

PARAMETERS = {"charbonnier": 0.25, "huber": 0.75}
VARIATIONS = ("l1", "l2_squared")  # "l2" is the root of the latter
LPIPS_EPS = 0.125  # so large that a map of one channel, whose unit features are nearly 1 or -1, has a gradient


def _layers(data: Data) -> list[Tensor]:
    """The maps of two layers."""
    batch, channels, height, width = data.shape
    return [data.map(1), data.map(2, (batch, channels + 2, (height + 1) // 2, width))]


def _targets(data: Data, maps: list[Tensor]) -> list[Tensor]:
    """The second is one for the whole batch."""
    return [data.map(3, maps[0].shape), data.map(4, (1, *maps[1].shape[1:]))]


def _channels(data: Data, maps: list[Tensor], seed: int) -> list[Tensor]:  # L x (C)
    return [data.numbers(seed, x.shape[1]).abs() + 0.1 for x in maps]


def _upstream(data: Data) -> Tensor:  # (N)
    return data.numbers(5, data.shape[0])


def _distances() -> Iterator[tuple[str, float]]:
    return ((distance, PARAMETERS.get(distance, 0.0)) for distance in checks.DISTANCES)


WEIGHTS = [0.75, 1.25]

# Grams and style


def _gram_arguments(data: Data) -> Iterator[Any]:
    return ((data.map(1), normalize) for normalize in checks.NORMALIZATIONS)


def _gram_backward_arguments(data: Data) -> Iterator[Any]:
    grad = data.numbers(2, data.shape[0], data.shape[1], data.shape[1])
    return ((grad, *arguments) for arguments in _gram_arguments(data))


def _gram_backward(grad: Tensor, x: Tensor, normalize: str) -> list[Tensor]:
    return gradients(lambda leaf: reference.raw_gram_matrix(leaf, normalize), [x], grad)


def _style_arguments(data: Data) -> Iterator[Any]:
    maps = _layers(data)
    sizes = [(data.shape[0], maps[0].shape[1]), (1, maps[1].shape[1])]
    grams = [data.numbers(6 + i, batch, channels, channels) for i, (batch, channels) in enumerate(sizes)]
    for distance, parameter in _distances():
        yield maps, grams, WEIGHTS, "chw", distance, parameter
    yield from ((maps, grams, WEIGHTS, normalize, "mse", 0.0) for normalize in ("hw", "none"))


def _style(
    features: list[Tensor], grams: list[Tensor], weights: list[float], normalize: str, *distance: Any
) -> list[Tensor]:
    """Loss, layer values, and d loss / d raw Gram, symmetrised."""
    raw = [reference.raw_gram_matrix(x, "none").requires_grad_() for x in features]
    divisors = [{"none": 1, "hw": x[0, 0].numel(), "chw": x[0].numel()}[normalize] for x in features]
    values = [
        reference.sample_distances(one / divisor - gram, *distance)
        for one, divisor, gram in zip(raw, divisors, grams, strict=True)
    ]
    loss, per_layer = reference.weighted_sum(values, weights)
    slopes = torch.autograd.grad(loss.sum(), raw)
    return [loss.detach(), per_layer.detach(), *(slope + slope.mT for slope in slopes)]


def _style_backward_arguments(data: Data) -> Iterator[Any]:
    maps = _layers(data)
    halves = [data.numbers(8 + i, x.shape[0], x.shape[1], x.shape[1]) for i, x in enumerate(maps)]
    slopes = [half + half.mT for half in halves]
    first, *rest = maps
    yield _upstream(data), maps, slopes, [None] * len(maps)
    yield None, maps, slopes, [first.flip(0), *[None] * len(rest)]
    yield None, maps, slopes, [None, *(x.flip(0) for x in rest)]


def _style_backward(
    grad: Tensor | None, features: list[Tensor], slopes: list[Tensor], others: list[Tensor | None]
) -> list[Tensor]:
    upstream = 1 if grad is None else grad.view(-1, 1, 1)
    products = [
        (upstream * slope @ x.to(slope.dtype).flatten(2)).view(x.shape)
        for x, slope in zip(features, slopes, strict=True)
    ]
    return [
        (product if other is None else product + other).to(x.dtype)
        for x, product, other in zip(features, products, others, strict=True)
    ]


# Channel statistics


def _channel_statistics(features: list[Tensor]) -> list[Tensor]:  # L x (N, 2, C)
    return [reference.raw_channel_statistics(x) for x in features]


def _channel_statistics_backward_arguments(data: Data) -> Iterator[Any]:
    """Of maps, and of parts of larger ones."""
    maps = _layers(data)
    slopes = [data.numbers(8 + i, x.shape[0], 2, x.shape[1]) for i, x in enumerate(maps)]
    statistics, pixels = _channel_statistics(maps), [x[0, 0].numel() for x in maps]
    first, *rest = maps
    yield _upstream(data), maps, statistics, slopes, pixels, [None] * len(maps)
    yield None, maps, statistics, slopes, [2 * count for count in pixels], [first.flip(0), *[None] * len(rest)]


def _channel_statistics_backward(
    grad: Tensor | None,
    features: list[Tensor],
    statistics: list[Tensor],
    slopes: list[Tensor],
    pixels: list[int],
    others: list[Tensor | None],
) -> list[Tensor]:
    found = []
    for x, numbers, by_numbers, count, other in zip(features, statistics, slopes, pixels, others, strict=True):
        (mean, deviation), (by_mean, by_deviation) = (z[..., None, None].unbind(1) for z in (numbers, by_numbers))
        gradient = (by_mean + by_deviation / deviation * (x.to(mean.dtype) - mean)) / count
        gradient = gradient if grad is None else grad.view(-1, 1, 1, 1) * gradient
        found.append((gradient if other is None else gradient + other).to(x.dtype))
    return found


# Features


def _feature_arguments(data: Data) -> Iterator[Any]:
    maps = _layers(data)
    for distance, parameter in _distances():
        yield maps, _targets(data, maps), WEIGHTS, distance, parameter


def _feature_backward_arguments(data: Data) -> Iterator[Any]:
    return ((_upstream(data), *arguments) for arguments in _feature_arguments(data))


def _feature_backward(grad: Tensor | None, features: list[Tensor], *rest: Any) -> list[Tensor]:
    return gradients(lambda *maps: reference.feature_terms(list(maps), *rest)[0], features, grad)


def _feature_both_arguments(data: Data) -> Iterator[Any]:
    for number, arguments in enumerate(_feature_arguments(data)):
        yield *arguments, None if number % 2 else _upstream(data)


def _feature_both(*arguments: Any) -> list[Tensor]:
    *given, grad = arguments
    loss, per_layer = reference.feature_terms(*given)
    return [loss, per_layer, *_feature_backward(grad, *given)]


# LPIPS and DISTS


def _pair_gradients(value: Any, features: list[Tensor], targets: list[Tensor], grad: Any) -> list[Tensor]:
    """With respect to features and targets, which become one per sample."""
    layers = len(features)
    leaves = [*features, *(y.expand_as(x) for x, y in zip(features, targets, strict=True))]
    return gradients(lambda *maps: value(list(maps[:layers]), list(maps[layers:])), leaves, grad)


def _lpips_arguments(data: Data) -> Iterator[Any]:
    maps = _layers(data)
    pair = maps, _targets(data, maps), _channels(data, maps, 6), LPIPS_EPS
    return ((*pair, eps_inside) for eps_inside in (False, True))


def _lpips_backward_arguments(data: Data) -> Iterator[Any]:
    return ((_upstream(data), *arguments, True, True) for arguments in _lpips_arguments(data))


def _lpips_backward(grad: Tensor | None, features: list[Tensor], targets: list[Tensor], *rest: Any) -> list[Tensor]:
    *settings, _, _ = rest
    return _pair_gradients(lambda xs, ys: reference.lpips_terms(xs, ys, *settings)[0], features, targets, grad)


def _lpips_both_arguments(data: Data) -> Iterator[Any]:
    for arguments, grad in zip(_lpips_arguments(data), (None, _upstream(data)), strict=True):
        yield *arguments, grad, True, True


def _lpips_both(*arguments: Any) -> list[Tensor]:
    *given, grad, by_features, by_targets = arguments
    loss, per_layer = reference.lpips_terms(*given)
    return [loss, per_layer, *_lpips_backward(grad, *given, by_features, by_targets)]


def _lpips_map_backward_arguments(data: Data) -> Iterator[Any]:
    grads = [data.numbers(7 + i, x.shape[0], 1, *x.shape[2:]) for i, x in enumerate(_layers(data))]
    return ((grads, *arguments, True, True) for arguments in _lpips_arguments(data))


def _lpips_map_backward(grads: list[Tensor], features: list[Tensor], targets: list[Tensor], *rest: Any) -> list[Tensor]:
    *settings, _, _ = rest
    return _pair_gradients(lambda xs, ys: reference.lpips_maps(xs, ys, *settings), features, targets, grads)


def _dists_arguments(data: Data) -> Iterator[Any]:
    maps = _layers(data)
    yield maps, _targets(data, maps), _channels(data, maps, 6), _channels(data, maps, 7)


def _statistics(features: list[Tensor], targets: list[Tensor]) -> list[Tensor]:  # L x (N, 6, C)
    """Means of x, y and x - y, then their variances."""
    found = []
    for x, y in zip(features, targets, strict=True):
        wide = [z.to(checks.accumulator_dtype(z)).flatten(2) for z in (x, y.expand_as(x))]
        triple = [*wide, wide[0] - wide[1]]
        variances = [(z - z.mean(2, keepdim=True)).square().mean(2) for z in triple]
        found.append(torch.stack([*(z.mean(2) for z in triple), *variances], dim=1))
    return found


def _dists(features: list[Tensor], targets: list[Tensor], *weights: Any) -> list[Tensor]:
    return flat([reference.dists_terms(features, targets, *weights), _statistics(features, targets)])


def _dists_backward_arguments(data: Data) -> Iterator[Any]:
    for features, targets, *weights in _dists_arguments(data):
        yield _upstream(data), features, targets, *weights, _statistics(features, targets), True, True


def _dists_backward(
    grad: Tensor, features: list[Tensor], targets: list[Tensor], alpha: list[Tensor], beta: list[Tensor], *_: Any
) -> list[Tensor]:
    return _pair_gradients(lambda xs, ys: reference.dists_terms(xs, ys, alpha, beta)[0], features, targets, grad)


# Total variation


def _variation_arguments(data: Data) -> Iterator[Any]:
    return ((data.map(1), kind) for kind in VARIATIONS)


def _variation_backward_arguments(data: Data) -> Iterator[Any]:
    return ((_upstream(data), *arguments) for arguments in _variation_arguments(data))


def _variation_backward(grad: Tensor | None, x: Tensor, kind: str) -> list[Tensor]:
    return gradients(lambda leaf: reference.variation(leaf, kind), [x], grad)


def _variation_both_arguments(data: Data) -> Iterator[Any]:
    return ((data.map(1), kind, grad) for kind in VARIATIONS for grad in (None, _upstream(data)))


def _variation_both(x: Tensor, kind: str, grad: Tensor | None) -> list[Tensor]:
    return [reference.variation(x, kind), *_variation_backward(grad, x, kind)]


MAPS: dict[str, Cases] = {
    name: cases_of(name, arguments, plain)
    for name, arguments, plain in (
        ("gram_matrix", _gram_arguments, reference.raw_gram_matrix),
        ("gram_matrix_backward", _gram_backward_arguments, _gram_backward),
        ("style_loss", _style_arguments, _style),
        ("style_loss_backward", _style_backward_arguments, _style_backward),
        ("channel_statistics", lambda data: [(_layers(data),)], _channel_statistics),
        ("channel_statistics_backward", _channel_statistics_backward_arguments, _channel_statistics_backward),
        ("feature_loss", _feature_arguments, reference.feature_terms),
        ("feature_loss_backward", _feature_backward_arguments, _feature_backward),
        ("feature_loss_with_gradient", _feature_both_arguments, _feature_both),
        ("lpips_distance", _lpips_arguments, reference.lpips_terms),
        ("lpips_distance_backward", _lpips_backward_arguments, _lpips_backward),
        ("lpips_distance_with_gradient", _lpips_both_arguments, _lpips_both),
        ("lpips_map", _lpips_arguments, reference.lpips_maps),
        ("lpips_map_backward", _lpips_map_backward_arguments, _lpips_map_backward),
        ("dists_distance", _dists_arguments, _dists),
        ("dists_distance_backward", _dists_backward_arguments, _dists_backward),
        ("total_variation", _variation_arguments, reference.variation),
        ("total_variation_backward", _variation_backward_arguments, _variation_backward),
        ("total_variation_with_gradient", _variation_both_arguments, _variation_both),
    )
}
