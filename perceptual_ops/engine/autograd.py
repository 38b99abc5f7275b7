"""The loss as an ordinary autograd graph, a chunk of samples at a time: any module, any derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import _checks as checks
from .. import ops
from ..reference import unit_features
from .batching import chunks, rows_of
from .terms import Terms
from .unit_map import EPS

FeaturesOf = Callable[[Tensor, Sequence[str]], list[Tensor]]  # images (N, 3, H, W) and layers -> features


def graph_loss(
    terms: Terms,
    features_of: FeaturesOf,
    output: Tensor,
    target: Tensor | None,
    contents: list[Tensor],
    grams: list[Tensor],
    chunk_size: int | None,
    backend: str,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss (N) and its terms, each (N).

    Args:
        terms: What the loss is made of.
        features_of: The network.
        output: (N, 3, H, W).
        target: Content images (N or 1, 3, H, W), or None for `contents`.
        contents: Features of the content layers, K x (N or 1, C, H', W').
        grams: Target Grams of the style layers, S x (N or 1, C, C).
        chunk_size: Samples that go through the network at a time; None: all.
        backend: See `perceptual_ops.ops`.
    """
    rows_of_chunks = chunks(output.shape[0], chunk_size)
    if target is not None and target.shape[0] == 1:
        contents, target = _target_features(features_of, target, terms), None
    found = []
    for rows in rows_of_chunks:
        own = rows_of(contents, rows) if target is None else _target_features(features_of, target[rows], terms)
        found.append(_chunk_terms(terms, features_of, output[rows], own, rows_of(grams, rows), backend))
    values = {name: torch.cat([chunk[name] for chunk in found]) for name in terms.names}
    parts = [values[name] for name in ("content", "style", "tv") if name in values]
    return torch.stack(parts).sum(0), values


def _target_features(features_of: FeaturesOf, images: Tensor, terms: Terms) -> list[Tensor]:
    """The pass keeps nothing unless a gradient is to flow to the images."""
    with ops.grad_mode(torch.is_grad_enabled() and images.requires_grad):
        return features_of(images, terms.content.layers)


def _chunk_terms(
    terms: Terms,
    features_of: FeaturesOf,
    images: Tensor,
    contents: list[Tensor],
    grams: list[Tensor],
    backend: str,
) -> dict[str, Tensor]:
    """Every term of the samples of one chunk, each (n)."""
    features = dict(zip(terms.layers, features_of(images, terms.layers), strict=True))
    if terms.is_of_unit_features:
        features = {layer: unit_features(x, EPS, False) for layer, x in features.items()}
        contents = [unit_features(y, EPS, False) for y in contents]
    found: dict[str, Tensor] = {}
    if terms.content.layers:
        part = terms.content
        maps = [features[layer] for layer in part.layers]
        targets = checks.check_targets([y.to(x.dtype) for x, y in zip(maps, contents, strict=True)], maps)
        found["content"], values = ops.feature_terms(
            maps, targets, list(part.weights), part.distance, part.parameter, backend
        )
        found |= {f"content/{layer}": value for layer, value in zip(part.layers, values, strict=True)}
    if terms.style.layers:
        part = terms.style
        maps = [features[layer] for layer in part.layers]
        targets = [gram.to(checks.accumulator_dtype(x)) for gram, x in zip(grams, maps, strict=True)]
        found["style"], values = ops.style_terms(
            maps, checks.check_target_grams(targets, maps), list(part.weights), terms.gram_normalize, part.distance,
            part.parameter, backend,
        )  # fmt: skip
        found |= {f"style/{layer}": value for layer, value in zip(part.layers, values, strict=True)}
    if terms.variation:
        variation = ops.total_variation(images, "l2_squared", "none", backend=backend)
        # An fp64 image does not make an fp64 loss of an fp32 network.
        found["tv"] = (terms.variation * variation).to(next(iter(found.values())).dtype)
    return found
