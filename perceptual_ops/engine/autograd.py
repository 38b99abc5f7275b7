"""The loss as an ordinary autograd graph, a chunk of samples at a time: any module, any derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import _checks as checks
from .. import metric_ops, ops
from ..reference import distance_map, sample_distances, unit_features, weighted_sum
from .batching import chunks, rows_of
from .frames import for_clips, frames_of
from .masks import at_layer
from .styles import GramSum, masked_features, only_there
from .terms import Part, Terms
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
    mask: Tensor | None = None,
    guides: Sequence[Tensor] = (),
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
        mask, guides: See `perceptual_op.perceptual_loss`.
    """
    if terms.of_clips:
        masks = mask, guides
        return _clip_loss(terms, features_of, output, target, contents, grams, chunk_size, backend, masks)
    rows_of_chunks = chunks(output.shape[0], chunk_size)
    if target is not None and target.shape[0] == 1:
        contents, target = _target_features(features_of, target, terms), None
    found = []
    for rows in rows_of_chunks:
        own = rows_of(contents, rows) if target is None else _target_features(features_of, target[rows], terms)
        masks = _rows_of_masks(mask, guides, rows)
        found.append(_chunk_terms(terms, features_of, output[rows], own, rows_of(grams, rows), backend, *masks))
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
    masks: tuple[Tensor | None, Sequence[Tensor]],  # of the frames (N * T or 1, 1, H, W)
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same of clips, by the Grams of their frames."""
    count, length, part = output.shape[0], output.shape[2], terms.style
    frames, targets = frames_of(output, count), None if target is None else frames_of(target, count)
    contents, found = [for_clips(x, count) for x in contents], []
    for rows in chunks(frames.shape[0], chunk_size):
        own = rows_of(contents, rows) if targets is None else _target_features(features_of, targets[rows], terms)
        of_chunk = _rows_of_masks(*masks, rows)
        found.append(_chunk_terms(terms, features_of, frames[rows], own, [], backend, *of_chunk))
    values = {name: torch.cat([chunk[name] for chunk in found]).unflatten(0, (count, length)) for name in found[0]}
    guides = masks[1]
    names = [f"{layer}/{k}" for layer in part.layers for k in range(len(guides))] if guides else part.layers
    of_frames = [values.pop(f"gram/{name}") for name in names]
    pixels = [values.pop(f"pixels/{name}") for name in names if guides]
    values = {name: value.mean(1) for name, value in values.items()}
    if guides:
        sums = [GramSum(gram.sum(1), squares.sum(1)) for gram, squares in zip(of_frames, pixels, strict=True)]
        values["style"], of_layers = _guided_style(terms, sums, grams)
        values |= {f"style/{layer}": value for layer, value in zip(part.layers, of_layers, strict=True)}
        return _total(values), {name: values[name] for name in terms.names}
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
    mask: Tensor | None = None,
    guides: Sequence[Tensor] = (),
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
        if mask is None:
            found["content"], values = ops.feature_terms(
                maps, targets, list(part.weights), part.distance, part.parameter, backend
            )
        else:
            found["content"], values = _masked_content(part, maps, targets, mask, backend)
        found |= {f"content/{layer}": value for layer, value in zip(part.layers, values, strict=True)}
    if terms.of_clips and guides:
        for layer in terms.style.layers:
            for k, sum in enumerate(_guided_sums(layer, features[layer], guides, backend)):
                found[f"gram/{layer}/{k}"], found[f"pixels/{layer}/{k}"] = sum.gram, sum.pixels_of(sum.gram.shape[0])
    elif terms.of_clips:
        found |= {
            f"gram/{layer}": ops.gram_matrix(features[layer], terms.gram_normalize, backend=backend)
            for layer in terms.style.layers
        }
    elif terms.style.layers:
        part = terms.style
        maps = [features[layer] for layer in part.layers]
        targets = [gram.to(checks.accumulator_dtype(maps[0])) for gram in grams]
        for first in range(0, len(targets), len(maps)):
            checks.check_target_grams(targets[first : first + len(maps)], maps)
        if guides:
            sums = [sum for layer in part.layers for sum in _guided_sums(layer, features[layer], guides, backend)]
            found["style"], values = _guided_style(terms, sums, targets)
        else:
            of_part = list(part.weights), terms.gram_normalize, part.distance, part.parameter
            found["style"], values = ops.style_terms(maps, targets, *of_part, backend)
        found |= {f"style/{layer}": value for layer, value in zip(part.layers, values, strict=True)}
    if terms.variation:
        variation = ops.total_variation(images, "l2_squared", "none", backend=backend)
        # An fp64 image does not make an fp64 loss of an fp32 network.
        found["tv"] = (terms.variation * variation).to(next(iter(found.values())).dtype)
    return found


def _masked_content(
    part: Part,
    maps: list[Tensor],  # K x (n, C, H, W)
    targets: list[Tensor],  # K x (n or 1, C, H, W)
    mask: Tensor,  # (n or 1, 1, H, W)
    backend: str,
) -> tuple[Tensor, Tensor]:  # (n), (K, n)
    """As `ops.feature_terms`."""
    values = []
    for layer, x, y in zip(part.layers, maps, targets, strict=True):
        at = at_layer(mask, layer, x.shape[2], x.shape[3])
        wide = checks.accumulator_dtype(x)
        if part.distance == "cosine":
            (pixels,) = metric_ops.lpips_maps([x], [y], checks.halves([x]), checks.COSINE_EPS, False, backend)
        else:
            distances = distance_map(x.to(wide) - y.to(wide), part.distance, part.parameter)
            pixels = distances.sum(1, True) if part.distance == "sse" else distances.mean(1, True)
        values.append(((at.pixels if part.distance == "sse" else at.shares) * pixels).sum((1, 2, 3)))
    loss, per_layer = weighted_sum(values, list(part.weights))
    return loss, per_layer.detach()


def _guided_sums(layer: str, x: Tensor, guides: Sequence[Tensor], backend: str) -> list[GramSum]:
    """As `styles.gram_sums`, of a map (n, C, H, W) and guides (n or 1, 1, H', W')."""
    masks = [at_layer(guide, layer, x.shape[2], x.shape[3]) for guide in guides]
    return [GramSum(ops.gram_matrix(masked_features(x, m), "none", backend=backend), m.squares) for m in masks]


def _guided_style(
    terms: Terms,
    sums: Sequence[GramSum],  # of each region of each style layer
    grams: Sequence[Tensor],  # (n or 1, C, C), those of each region one after the other
) -> tuple[Tensor, Tensor]:  # (n), (S, n)
    """As `ops.style_terms`, with `styles.GuidedStyle`'s Grams."""
    part, values, of_all = terms.style, [], iter(sums)
    for targets in terms.by_layer(grams).values():
        of_regions = []
        for share, target in zip(terms.shares, targets, strict=True):
            sum = next(of_all)
            value = sample_distances(
                sum.gram / sum.divisor(terms.gram_normalize) - target, part.distance, part.parameter
            )
            of_regions.append(share * only_there(sum.pixels_of(value.shape[0]), value))
        values.append(torch.stack(of_regions).sum(0))
    loss, per_layer = weighted_sum(values, list(part.weights))
    return loss, per_layer.detach()


def _rows_of_masks(mask: Tensor | None, guides: Sequence[Tensor], rows: slice) -> tuple[Tensor | None, list[Tensor]]:
    return None if mask is None else rows_of([mask], rows)[0], rows_of(guides, rows)
