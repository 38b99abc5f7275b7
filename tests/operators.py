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
    """

    name: str
    run: Callable[..., Tensor]
    naive: Callable[[list[Tensor]], Tensor]
    smooth: bool = True


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
    return Operator(f"gram-{normalize}", run, lambda maps: naive_gram(maps[0]) * factor(maps[0]))


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

    return Operator(f"style-{distance}", run, naive, smooth=distance != "l1")


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


OPERATORS = [
    *(_gram(normalize) for normalize in ("none", "hw", "chw")),
    *(_style(distance) for distance in DISTANCES),
    *(_feature(distance) for distance in DISTANCES),
    *(_variation(kind) for kind in ("l1", "l2_squared", "l2")),
]


def value_and_gradient(
    run: Callable[[list[Tensor]], Tensor], maps: list[Tensor], upstream_seed: int = 5
) -> tuple[Tensor, list[Tensor]]:
    """The value and the gradients for a random, non-unit upstream gradient."""
    leaves = [x.detach().requires_grad_() for x in maps]
    value = run(leaves)
    upstream = random_map(tuple(value.shape), torch.float64, str(value.device), upstream_seed).to(value.dtype)
    return value.detach(), list(torch.autograd.grad(value, leaves, upstream, materialize_grads=True))


def run_native(operator: Operator, maps: list[Tensor]) -> Tensor:
    return operator.run(po, maps, backend="native")


def run_reference(operator: Operator, maps: list[Tensor]) -> Tensor:
    return operator.run(po.reference, maps)
