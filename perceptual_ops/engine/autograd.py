"""The loss as an ordinary autograd graph, a chunk of samples at a time: any module, any derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import _checks as checks
from .. import ops
from ..reference import unit_features
from .batching import chunks, rows_of
from .frames import for_clips, frames_of
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
        chunk_size: Samples, or frames of clips, that go through the network at a time; None: all.
        backend: See `perceptual_ops.ops`.
    """
    if terms.of_clips:
        return _clip_loss(terms, features_of, output, target, contents, grams, chunk_size, backend)
    rows_of_chunks = chunks(output.shape[0], chunk_size)
    if target is not None and target.shape[0] == 1:
        contents, target = _target_features(features_of, target, terms), None
    found = []
    for rows in rows_of_chunks:
        own = rows_of(contents, rows) if target is None else _target_features(features_of, target[rows], terms)
        found.append(_chunk_terms(terms, features_of, output[rows], own, rows_of(grams, rows), backend))
    values = {name: torch.cat([chunk[name] for chunk in found]) for name in terms.names}
    return _total(values), values


def _clip_loss(
    terms: Terms,
    features_of: FeaturesOf,
    output: Tensor,  # (N, 3, T, H, W)
    target: Tensor | None,  # (N or 1, 3, T, H, W)
    contents: list[Tensor],  # K x (N or 1, T, C, H', W')
    grams: list[Tensor],  # S x (N or 1, C, C)
    chunk_size: int | None,
    backend: str,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same of clips, by the Grams of their frames."""
    count, length, part = output.shape[0], output.shape[2], terms.style
    frames, targets = frames_of(output, count), None if target is None else frames_of(target, count)
    contents, found = [for_clips(x, count) for x in contents], []
    for rows in chunks(frames.shape[0], chunk_size):
        own = rows_of(contents, rows) if targets is None else _target_features(features_of, targets[rows], terms)
        found.append(_chunk_terms(terms, features_of, frames[rows], own, [], backend))
    values = {name: torch.cat([chunk[name] for chunk in found]).unflatten(0, (count, length)) for name in found[0]}
    of_frames = [values.pop(f"gram/{layer}") for layer in part.layers]
    values = {name: value.mean(1) for name, value in values.items()}
    # As maps (N, 1, C, C), whose distance is the same.
    maps = [(x.sum(1) if terms.gram_normalize == "none" else x.mean(1)).unsqueeze(1) for x in of_frames]
    wanted = [gram.to(x.dtype).unsqueeze(1) for gram, x in zip(grams, maps, strict=True)]
    weights, distance = list(part.weights), (part.distance, part.parameter, backend)
    values["style"], of_layers = ops.feature_terms(maps, wanted, weights, *distance)
    values |= {f"style/{layer}": value for layer, value in zip(part.layers, of_layers, strict=True)}
    return _total(values), {name: values[name] for name in terms.names}


def _total(values: dict[str, Tensor]) -> Tensor:  # (N)
    return torch.stack([values[name] for name in ("content", "style", "tv") if name in values]).sum(0)


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
    """Every term of the samples of one chunk, each (n).

    Of frames of clips their Grams (n, C, C), as "gram/<layer>", in place of style.
    """
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
    if terms.of_clips:
        found |= {
            f"gram/{layer}": ops.gram_matrix(features[layer], terms.gram_normalize, backend=backend)
            for layer in terms.style.layers
        }
    elif terms.style.layers:
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
