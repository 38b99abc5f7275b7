"""The operators as functions of feature maps alone, so that one test serves all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from maps import random_map
from torch import Tensor

import perceptual_ops as po

DISTANCES = ["mse", "l1", "charbonnier", "huber", "sse"]


@dataclass(frozen=True)
class Operator:
    """One operator with its settings.

    Attributes:
        name: Name for pytest.
        run: (module, maps, keywords) -> result with one number or matrix a sample; `module` is perceptual_ops or its
            reference, `maps` the layers' features.
        naive: The same as a user writes it in eager PyTorch in the maps' own dtype.
        smooth: Whether it is differentiable everywhere, so that finite differences agree.
        of_grams: Whether the order of the pixels is of no account but for rounding.
    """

    name: str
    run: Callable[..., Tensor]
    naive: Callable[[list[Tensor]], Tensor]
    smooth: bool = True
    of_grams: bool = False


def wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def on_grid(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    """Random numbers that every dtype holds exactly, so that the fp64 oracle sees the same targets."""
    return ((random_map(shape, torch.float64, device, seed) * 16).round() / 16).clamp(-4, 4).to(dtype)


def target_gram(x: Tensor, layer: int) -> Tensor:
    """A target Gram (N, C, C) that is not symmetric; one for the whole batch on odd layers."""
    batch = 1 if layer % 2 else x.shape[0]
    return on_grid((batch, x.shape[1], x.shape[1]), wide(x), str(x.device), seed=11 + layer)


def target_map(x: Tensor, layer: int) -> Tensor:
    batch = 1 if layer % 2 else x.shape[0]
    return on_grid((batch, *x.shape[1:]), x.dtype, str(x.device), seed=21 + layer)


def layer_weights(maps: list[Tensor]) -> list[float]:
    return [0.7 + 0.5 * i for i in range(len(maps))]


def channel_weights(maps: list[Tensor], period: int) -> list[Tensor]:
    """A number for each channel of each layer that every dtype holds."""
    return [(1 + torch.arange(x.shape[1], device=x.device) % period).to(wide(x)) / 8 for x in maps]


def naive_distance(error: Tensor, distance: str) -> Tensor:  # (N, ...) -> (N)
    values = {
        "mse": lambda: error * error,
        "sse": lambda: error * error,
        "l1": lambda: error.abs(),
        "charbonnier": lambda: (error * error + 1e-6).sqrt(),
        "huber": lambda: torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none"),
    }[distance]()
    return values.flatten(1).sum(1) if distance == "sse" else values.flatten(1).mean(1)


def naive_gram(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    return flat @ flat.transpose(1, 2) / (x.shape[1] * x.shape[2] * x.shape[3])


def _gram(normalize: str) -> Operator:
    def run(module: ModuleType, maps: list[Tensor], **keywords: str) -> Tensor:
        return module.gram_matrix(maps[0], normalize, **keywords)

    factor = {
        "chw": lambda x: 1,
        "hw": lambda x: x.shape[1],
        "none": lambda x: x.shape[1] * x.shape[2] * x.shape[3],
    }[normalize]
    return Operator(f"gram-{normalize}", run, lambda maps: naive_gram(maps[0]) * factor(maps[0]), of_grams=True)


def naive_statistics(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, 2, C)
    mean = x.mean((2, 3), keepdim=True)
    return torch.stack([mean.flatten(1), (((x - mean) ** 2).mean((2, 3)) + 1e-5).sqrt()], 1)


def _statistics() -> Operator:
    def run(module: ModuleType, maps: list[Tensor], **keywords: str) -> Tensor:
        return module.channel_statistics(maps[0], **keywords)

    return Operator("channel statistics", run, lambda maps: naive_statistics(maps[0]))


def _style(distance: str) -> Operator:
    def run(module: ModuleType, maps: list[Tensor], **keywords: str) -> Tensor:
        grams = [target_gram(x, i) for i, x in enumerate(maps)]
        return module.style_loss(maps, grams, layer_weights(maps), "chw", distance, "none", **keywords)

    def naive(maps: list[Tensor]) -> Tensor:
        terms = [
            weight * naive_distance(naive_gram(x) - target_gram(x, i).to(x.dtype), distance)
            for i, (x, weight) in enumerate(zip(maps, layer_weights(maps), strict=True))
        ]
        return torch.stack(terms).sum(0)

    return Operator(f"style-{distance}", run, naive, smooth=distance != "l1", of_grams=True)


def _feature(distance: str) -> Operator:
    def run(module: ModuleType, maps: list[Tensor], **keywords: str) -> Tensor:
        targets = [target_map(x, i) for i, x in enumerate(maps)]
        return module.feature_loss(maps, targets, layer_weights(maps), distance, "none", **keywords)

    def naive(maps: list[Tensor]) -> Tensor:
        terms = [
            weight * naive_distance(x - target_map(x, i), distance)
            for i, (x, weight) in enumerate(zip(maps, layer_weights(maps), strict=True))
        ]
        return torch.stack(terms).sum(0)

    return Operator(f"feature-{distance}", run, naive, smooth=distance != "l1")


def _variation(kind: str) -> Operator:
    def run(module: ModuleType, maps: list[Tensor], **keywords: str) -> Tensor:
        return module.total_variation(maps[0], kind, "none", **keywords)

    def naive(maps: list[Tensor]) -> Tensor:
        x = maps[0]
        right, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
        if kind == "l1":
            return right.abs().sum((1, 2, 3)) + down.abs().sum((1, 2, 3))
        squares = (right * right).sum((1, 2, 3)) + (down * down).sum((1, 2, 3))
        return squares if kind == "l2_squared" else squares.clamp_min(torch.finfo(x.dtype).tiny).sqrt()

    return Operator(f"variation-{kind}", run, naive, smooth=kind != "l1")


def naive_lpips(x: Tensor, y: Tensor, weights: Tensor, eps: float, eps_inside: bool = False) -> Tensor:  # (N)
    def unit(z: Tensor) -> Tensor:
        squares = (z * z).sum(1, keepdim=True)
        return z / ((squares + eps).sqrt() if eps_inside else squares.sqrt() + eps)

    error = unit(x) - unit(y)
    return (weights.to(x.dtype).view(-1, 1, 1) * (error * error)).sum(1).mean((1, 2))


def naive_dists(x: Tensor, y: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:  # (N)
    x_mean, y_mean = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
    x_variance, y_variance = ((x - x_mean) ** 2).mean((2, 3)), ((y - y_mean) ** 2).mean((2, 3))
    covariance = ((x - x_mean) * (y - y_mean)).mean((2, 3))
    x_mean, y_mean = x_mean.flatten(1), y_mean.flatten(1)
    means = (2 * x_mean * y_mean + 1e-6) / (x_mean**2 + y_mean**2 + 1e-6)
    structures = (2 * covariance + 1e-6) / (x_variance + y_variance + 1e-6)
    return (alpha.to(x.dtype) * (1 - means) + beta.to(x.dtype) * (1 - structures)).sum(1)


# So large that a map of one channel, whose unit features are nearly 1 or -1, has a gradient beyond rounding.
LPIPS_EPS = 0.125


def _lpips(eps_inside: bool) -> Operator:
    def run(module: ModuleType, maps: list[Tensor], **keywords: str) -> Tensor:
        targets = [target_map(x, i) for i, x in enumerate(maps)]
        return module.lpips_distance(maps, targets, channel_weights(maps, 5), LPIPS_EPS, eps_inside, **keywords)

    def naive(maps: list[Tensor]) -> Tensor:
        return torch.stack(
            [
                naive_lpips(x, target_map(x, i), weights, LPIPS_EPS, eps_inside)
                for i, (x, weights) in enumerate(zip(maps, channel_weights(maps, 5), strict=True))
            ]
        ).sum(0)

    return Operator(f"lpips-eps {'inside' if eps_inside else 'outside'}", run, naive)


def _dists() -> Operator:
    def run(module: ModuleType, maps: list[Tensor], **keywords: str) -> Tensor:
        targets = [target_map(x, i) for i, x in enumerate(maps)]
        return module.dists_distance(maps, targets, channel_weights(maps, 3), channel_weights(maps, 4), **keywords)

    def naive(maps: list[Tensor]) -> Tensor:
        weights = zip(channel_weights(maps, 3), channel_weights(maps, 4), strict=True)
        return torch.stack(
            [
                naive_dists(x, target_map(x, i), alpha, beta)
                for i, (x, (alpha, beta)) in enumerate(zip(maps, weights, strict=True))
            ]
        ).sum(0)

    return Operator("dists", run, naive)


OPERATORS = [
    *(_gram(normalize) for normalize in ("none", "hw", "chw")),
    _statistics(),
    *(_style(distance) for distance in DISTANCES),
    *(_feature(distance) for distance in DISTANCES),
    *(_variation(kind) for kind in ("l1", "l2_squared", "l2")),
    *(_lpips(eps_inside) for eps_inside in (False, True)),
    _dists(),
]


def value_and_gradient(
    run: Callable[[list[Tensor]], Tensor], maps: list[Tensor], upstream_seed: int = 5
) -> tuple[Tensor, list[Tensor]]:
    """The value and the gradients for a random, non-unit upstream gradient."""
    leaves = [x.detach().requires_grad_() for x in maps]
    value = run(leaves)
    upstream = random_map(tuple(value.shape), torch.float64, str(value.device), upstream_seed).to(value.dtype)
    return value.detach(), list(torch.autograd.grad(value, leaves, upstream, materialize_grads=True))


def naive_runs(operator: Operator, maps: list[Tensor]) -> list[list[Tensor]]:
    """Value and gradients of naive runs, in one order of the pixels or two.

    Two nearly equal Grams have a difference, and so a gradient, that the order of their sums decides: one run alone may
    be lucky.
    """
    value, gradients = value_and_gradient(operator.naive, maps)
    runs = [[value, *gradients]]
    if operator.of_grams:
        value, gradients = value_and_gradient(operator.naive, [x.flip(2, 3) for x in maps])
        runs.append([value, *(gradient.flip(2, 3) for gradient in gradients)])
    return runs


def run_native(operator: Operator, maps: list[Tensor]) -> Tensor:
    return operator.run(po, maps, backend="native")


def run_reference(operator: Operator, maps: list[Tensor]) -> Tensor:
    return operator.run(po.reference, maps)
