"""The loss as an ordinary autograd graph, a chunk of samples at a time: any module, any derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import _checks as checks
from .. import metric_ops, ops
from ..names import Backend
from ..reference import distance_map, sample_distances, unit_features, weighted_sum
from .batching import chunks, rows_of
from .frames import for_clips, frames_of
from .masks import at_layer
from .style_layout import plain_style, split_style, style_over_frames
from .style_parts import StyleSum, masked_features, only_there
from .terms import Part, Terms, compared
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
    backend: Backend,
    mask: Tensor | None = None,
    guides: Sequence[Tensor] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss (N) and its terms, each (N).

    Args:
        terms: The terms of the loss.
        features_of: The network.
        output: (N, 3, H, W).
        target: Content images (N or 1, 3, H, W), or None for `contents`.
        contents: Features of the content layers, K x (N or 1, C, H', W').
        grams: Targets of the style layers, S x (N or 1, R, C), see style_layout.py.
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
    of_chunks = []
    for rows in rows_of_chunks:
        own = rows_of(contents, rows) if target is None else _target_features(features_of, target[rows], terms)
        masks = _rows_of_masks(mask, guides, rows)
        of_chunks.append(_chunk_terms(terms, features_of, output[rows], own, rows_of(grams, rows), backend, *masks))
    values = {name: torch.cat([chunk[name] for chunk in of_chunks]) for name in terms.names}
    return _total(values), values


def _clip_loss(
    terms: Terms,
    features_of: FeaturesOf,
    output: Tensor,  # (N, 3, T, H, W)
    target: Tensor | None,  # (N or 1, 3, T, H, W)
    contents: list[Tensor],  # K x (N or 1, T, C, H', W')
    grams: list[Tensor],  # S x (N or 1, R, C)
    chunk_size: int | None,
    backend: Backend,
    masks: tuple[Tensor | None, Sequence[Tensor]],  # of the frames (N * T or 1, 1, H, W)
) -> tuple[Tensor, dict[str, Tensor]]:
    """`graph_loss` of clips, from the styles of their frames."""
    count, length, part = output.shape[0], output.shape[2], terms.style
    frames, targets = frames_of(output, count), None if target is None else frames_of(target, count)
    contents, of_chunks = [for_clips(x, count) for x in contents], []
    for rows in chunks(frames.shape[0], chunk_size):
        own = rows_of(contents, rows) if targets is None else _target_features(features_of, targets[rows], terms)
        of_chunk = _rows_of_masks(*masks, rows)
        of_chunks.append(_chunk_terms(terms, features_of, frames[rows], own, [], backend, *of_chunk))
    values = {
        name: torch.cat([chunk[name] for chunk in of_chunks]).unflatten(0, (count, length)) for name in of_chunks[0]
    }
    guides = masks[1]
    names = [f"{layer}/{k}" for layer in part.layers for k in range(len(guides))] if guides else part.layers
    of_frames = [values.pop(f"gram/{name}") for name in names]
    pixels = [values.pop(f"pixels/{name}") for name in names if guides]
    values = {name: value.mean(1) for name, value in values.items()}
    if guides:
        sums = [StyleSum.of_gram(gram.sum(1), squares.sum(1)) for gram, squares in zip(of_frames, pixels, strict=True)]
        values["style"], of_layers = _guided_style(terms, sums, grams)
        values.update({f"style/{layer}": value for layer, value in zip(part.layers, of_layers, strict=True)})
        return _total(values), {name: values[name] for name in terms.names}
    styles = [style_over_frames(x, terms.gram_normalize, terms.style_statistics) for x in of_frames]
    values["style"], of_layers = _clip_style(terms, styles, grams, backend)
    values.update({f"style/{layer}": value for layer, value in zip(part.layers, of_layers, strict=True)})
    return _total(values), {name: values[name] for name in terms.names}


def _total(values: dict[str, Tensor]) -> Tensor:  # (N)
    return torch.stack([values[name] for name in ("content", "style", "tv") if name in values]).sum(0)


def _target_features(features_of: FeaturesOf, images: Tensor, terms: Terms) -> list[Tensor]:
    """Records no graph unless the images require grad."""
    with ops.grad_mode(torch.is_grad_enabled() and images.requires_grad):
        return features_of(images, terms.content.layers)


def _chunk_terms(
    terms: Terms,
    features_of: FeaturesOf,
    images: Tensor,
    contents: list[Tensor],
    grams: list[Tensor],
    backend: Backend,
    mask: Tensor | None = None,
    guides: Sequence[Tensor] = (),
) -> dict[str, Tensor]:
    """Every term of the samples of one chunk, each (n).

    For frames of clips, their Grams (n, C, C) as "gram/<layer>" in place of style.
    """
    features = dict(zip(terms.layers, features_of(images, terms.layers), strict=True))
    if terms.is_of_unit_features:
        features = {layer: unit_features(x, EPS, False) for layer, x in features.items()}
        contents = [unit_features(y, EPS, False) for y in contents]
    by_name: dict[str, Tensor] = {}
    if terms.content.layers:
        part = terms.content
        maps = [features[layer] for layer in part.layers]
        targets = checks.check_targets([y.to(x.dtype) for x, y in zip(maps, contents, strict=True)], maps)
        if mask is None:
            by_name["content"], values = ops.feature_terms(
                maps, targets, list(part.weights), part.distance, part.parameter, backend
            )
        else:
            by_name["content"], values = _masked_content(part, maps, targets, mask, backend)
        by_name.update({f"content/{layer}": value for layer, value in zip(part.layers, values, strict=True)})
    if terms.of_clips and guides:
        for layer in terms.style.layers:
            for k, sum in enumerate(_guided_sums(layer, features[layer], guides, backend)):
                by_name[f"gram/{layer}/{k}"], by_name[f"pixels/{layer}/{k}"] = (
                    sum.gram,
                    sum.pixels_of(sum.gram.shape[0]),
                )
    elif terms.of_clips:
        by_name.update(
            {
                f"gram/{layer}": plain_style(features[layer], terms.gram_normalize, terms.style_statistics, backend)
                for layer in terms.style.layers
            }
        )
    elif terms.style.layers:
        part = terms.style
        maps = [features[layer] for layer in part.layers]
        targets = [gram.to(checks.accumulator_dtype(maps[0])) for gram in grams]
        if guides:
            for first in range(0, len(targets), len(maps)):
                checks.check_target_grams(targets[first : first + len(maps)], maps)
            sums = [sum for layer in part.layers for sum in _guided_sums(layer, features[layer], guides, backend)]
            by_name["style"], values = _guided_style(terms, sums, targets)
        else:
            by_name["style"], values = _style(terms, maps, targets, backend)
        by_name.update({f"style/{layer}": value for layer, value in zip(part.layers, values, strict=True)})
    if terms.variation:
        variation = ops.total_variation(images, "l2_squared", "none", backend=backend)
        # An fp64 image does not make an fp64 loss of an fp32 network.
        by_name["tv"] = (terms.variation * variation).to(next(iter(by_name.values())).dtype)
    return by_name


def _masked_content(
    part: Part,
    maps: list[Tensor],  # K x (n, C, H, W)
    targets: list[Tensor],  # K x (n or 1, C, H, W)
    mask: Tensor,  # (n or 1, 1, H, W)
    backend: Backend,
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


def _guided_sums(layer: str, x: Tensor, guides: Sequence[Tensor], backend: Backend) -> list[StyleSum]:
    """As `style_parts.style_sums`, of a map (n, C, H, W) and guides (n or 1, 1, H', W')."""
    masks = [at_layer(guide, layer, x.shape[2], x.shape[3]) for guide in guides]
    return [StyleSum.of_gram(ops.gram_matrix(masked_features(x, m), "none", backend=backend), m.squares) for m in masks]


def _guided_style(
    terms: Terms,
    sums: Sequence[StyleSum],  # of each region of each style layer
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


def _style(
    terms: Terms,
    maps: list[Tensor],  # S x (n, C, H, W)
    targets: list[Tensor],  # S x (n or 1, R, C)
    backend: Backend,
) -> tuple[Tensor, Tensor]:  # (n), (S, n)
    """The weighted style loss and the layers' values."""
    part, found = terms.style, []
    pairs = [split_style(target, terms.style_statistics) for target in targets]
    grams, statistics = compared(terms.style_statistics)
    if grams:
        wanted = checks.check_target_grams([gram for gram, _ in pairs], maps)
        settings = terms.gram_normalize, part.distance, part.parameter, backend
        found.append(ops.style_terms(maps, wanted, list(part.weights), *settings))
    if statistics:
        numbers, of_targets = ops.statistics_of(maps, backend), [own for _, own in pairs]
        found.append(ops.statistics_terms(numbers, of_targets, *_distance(part)))
    return _added(found)


def _clip_style(
    terms: Terms,
    styles: list[Tensor],  # S x (n, R, C)
    targets: list[Tensor],  # S x (n or 1, R, C)
    backend: Backend,
) -> tuple[Tensor, Tensor]:  # (n), (S, n)
    """The same by the styles of clips."""
    part, pairs = terms.style, []
    (grams, statistics), (of_grams, of_statistics) = (
        zip(*(split_style(style.to(styles[0].dtype), terms.style_statistics) for style in side), strict=True)
        for side in (styles, targets)
    )
    by_grams, by_statistics = compared(terms.style_statistics)
    if by_grams:
        # As maps (N, 1, C, C), whose distance is the same.
        maps, wanted = ([gram.unsqueeze(1) for gram in side] for side in (grams, of_grams))
        pairs.append(ops.feature_terms(maps, wanted, *_distance(part), backend))
    if by_statistics:
        pairs.append(ops.statistics_terms(list(statistics), list(of_statistics), *_distance(part)))
    return _added(pairs)


def _distance(part: Part) -> tuple[list[float], str, float]:
    return list(part.weights), part.distance, part.parameter


def _added(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    (loss, values), *rest = pairs
    for other, of_layers in rest:
        loss, values = loss + other, values + of_layers
    return loss, values
