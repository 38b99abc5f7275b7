"""The loss and its gradient with respect to the images in one pass, a chunk of samples at a time.

The loss is one scalar per sample and the network is frozen, so the image gradient is computed in the forward; the
backward scales it by the upstream gradient of each sample. Nothing else is saved. custom_op.py has what operators over
a trunk share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .batching import rows_of
from .clip_loss import clip_losses, clip_styles
from .custom_op import (
    TrunkInput,
    empty_results,
    gradient_like,
    joined,
    keep_gradients,
    multiply_gradients,
    wanted_gradients,
    written,
)
from .masks import Masks
from .modes import no_autograd
from .operator_settings import layer_names
from .perceptual_chunk import PerceptualChunk
from .perceptual_head import summed
from .registry import trunk_by_key
from .style_layout import style_rows
from .terms import Terms
from .tiled_loss import tiled_features, tiled_losses, tiled_styles
from .trunk import Trunk

operators: Any = torch.ops.perceptual_ops


def trunk_features(images: Tensor, trunk_input: TrunkInput, layers: Sequence[str]) -> list[Tensor]:
    """Features (N, C, H', W') of images (N, 3, H, W) at layers of a chain, by a pass that keeps nothing else."""
    return _trunk_features(images, *trunk_input.encoded(), "\n".join(layers))


@torch.library.custom_op(
    "perceptual_ops::trunk_features", mutates_args=(),
    schema=f"(Tensor images, {TrunkInput.schema()}, str layers) -> Tensor[]",
)  # fmt: skip
def _trunk_features(images: Tensor, *settings: Any) -> list[Tensor]:
    values = iter(settings)
    trunk_input, (layers,) = TrunkInput.decoded(values), values
    side = trunk_input.tile_side(images)
    with no_autograd(images):
        parts = [
            tiled_features(images[rows], trunk_input, layer_names(layers), side)
            if side
            else trunk_input.features(images[rows], layer_names(layers))[0]
            for rows in trunk_input.chunks(images)
        ]
        return [joined(list(maps)) for maps in zip(*parts, strict=True)]


@_trunk_features.register_fake
def _(images: Tensor, *settings: Any) -> list[Tensor]:
    values = iter(settings)
    trunk_input, (layers,) = TrunkInput.decoded(values), values
    chain = trunk_by_key(trunk_input.trunk_key)
    assert isinstance(chain, Trunk), "whose sizes are known without running it"
    size = trunk_input.input_size
    sizes = chain.sizes(*((size.height, size.width) if size.is_given else images.shape[2:]))
    shapes = [(images.shape[0], *sizes[name]) for name in layer_names(layers)]
    return [
        torch.empty(shape, dtype=trunk_input.dtype, device=images.device, memory_format=torch.channels_last)
        for shape in shapes
    ]


def trunk_styles(
    images: Tensor,  # (N, 3, H, W), (N, 3, T, H, W)
    trunk_input: TrunkInput,
    layers: Sequence[str],
    gram_normalize: str,
    is_unit: bool,
    style_statistics: str = "gram",
) -> list[Tensor]:
    """Styles (N, R, C), see style_layout.py, at layers of a chain: of images that go in tiles, or of clips."""
    return _trunk_styles(images, *trunk_input.encoded(), "\n".join(layers), gram_normalize, is_unit, style_statistics)


@torch.library.custom_op(
    "perceptual_ops::trunk_styles", mutates_args=(),
    schema=f"(Tensor images, {TrunkInput.schema()}, str layers, str gram_normalize, bool is_unit, "
    "str style_statistics) -> Tensor[]",
)  # fmt: skip
def _trunk_styles(images: Tensor, *settings: Any) -> list[Tensor]:
    values = iter(settings)
    trunk_input, (layers, *rest) = TrunkInput.decoded(values), values
    with no_autograd(images):
        if images.dim() == 5:
            parts = [clip_styles(clip, trunk_input, layer_names(layers), *rest) for clip in images.split(1)]
        else:
            side = trunk_input.tile_side(images)
            assert side, "whoever asks knows that there are tiles"
            rows = trunk_input.chunks(images)
            parts = [tiled_styles(images[own], trunk_input, layer_names(layers), side, *rest) for own in rows]
    return [joined(list(styles)) for styles in zip(*parts, strict=True)]


@_trunk_styles.register_fake
def _(images: Tensor, *settings: Any) -> list[Tensor]:
    values = iter(settings)
    trunk_input, (layers, *_, style_statistics) = TrunkInput.decoded(values), values
    chain = trunk_by_key(trunk_input.trunk_key)
    assert isinstance(chain, Trunk), "tiles are of chains"
    sizes = chain.sizes(*images.shape[-2:])
    counts = [sizes[name][0] for name in layer_names(layers)]
    shapes = [(images.shape[0], style_rows(style_statistics, count), count) for count in counts]
    return [images.new_empty(shape, dtype=trunk_input.wide) for shape in shapes]


def perceptual_loss(
    output: Tensor,  # (N, 3, H, W), (N, 3, T, H, W) of clips (`Terms.of_clips`)
    target: Tensor | None,  # (N or 1, 3, H, W), (N or 1, 3, T, H, W)
    contents: list[Tensor],  # K x (N or 1, C, H', W'), (N or 1, T, C, H', W'), in place of the target
    grams: list[Tensor],  # S x (N or 1, R, C), see style_layout.py
    trunk_input: TrunkInput,
    terms: Terms,
    mask: Tensor | None = None,  # (N or 1, 1, H, W), in the size in which images enter
    guides: Sequence[Tensor] = (),  # K x (N or 1, 1, H', W')
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss (N) and its terms by name, each (N); gradients that are required are computed in this forward.

    The mask is of the content part, guides are of regions of the style part (`styles.GuidedStyle`), all of the
    accumulation dtype; grams are then K S, region by region.
    """
    target, *wanted = wanted_gradients(output, target)
    settings = *trunk_input.encoded(), *terms.encoded()
    loss, values, *_ = _perceptual_loss(output, target, contents, grams, mask, list(guides), *settings, *wanted)
    return loss, dict(zip(terms.names, values, strict=True))


@torch.library.custom_op(
    "perceptual_ops::perceptual_loss", mutates_args=(),
    schema="(Tensor output, Tensor? target, Tensor[] contents, Tensor[] grams, Tensor? mask, Tensor[] guides, "
    f"{TrunkInput.schema()}, {Terms.schema()}, bool output_gradient, bool target_gradient) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip
def _perceptual_loss(
    output: Tensor,
    target: Tensor | None,
    contents: list[Tensor],
    grams: list[Tensor],
    mask: Tensor | None,
    guides: list[Tensor],
    *settings: Any,
) -> tuple[Tensor, ...]:
    """The loss (N), its terms (T, N) in the order of `Terms.names`, and its gradients with respect to output
    and target.

    Gradients that are not wanted are empty. A target whose gradient is wanted is one per sample. An empty batch does
    not run the network.
    """
    values = iter(settings)
    trunk_input, terms = TrunkInput.decoded(values), Terms.decoded(values)
    if not output.shape[0]:  # which few modules take
        return empty_results(output, output if target is None else target, len(terms.names), trunk_input.wide, values)
    return trunk_input.run(_loss_and_gradients, output, target, contents, grams, mask, guides, *settings)


def _loss_and_gradients(
    output: Tensor,
    target: Tensor | None,
    contents: list[Tensor],
    grams: list[Tensor],
    mask: Tensor | None,
    guides: list[Tensor],
    *settings: Any,
) -> tuple[Tensor, ...]:
    """What `_perceptual_loss` returns, of one sample or more."""
    rest = iter(settings)
    trunk_input, terms, (output_gradient, target_gradient) = TrunkInput.decoded(rest), Terms.decoded(rest), rest
    by_output = gradient_like(output, trunk_input.wide, output_gradient)
    by_target = gradient_like(output if target is None else target, trunk_input.wide, target_gradient)
    losses: list[Tensor] = []
    values: list[Tensor] = []
    with no_autograd(output):
        masks = Masks.of(mask, guides)
        if terms.of_clips:
            images, made = (output, target), (by_output, by_target)
            loss, of_terms = clip_losses(trunk_input, terms, images, contents, grams, made, masks)
            return loss, of_terms, by_output, by_target
        side = trunk_input.tile_side(output)
        if side:
            loss, of_terms = tiled_losses(
                trunk_input, terms, side, (output, target), contents, grams, (by_output, by_target), masks
            )
            return loss, of_terms, by_output, by_target
        if target is not None and target.shape[0] < output.shape[0]:  # one for all, and for all chunks
            (contents, _), target = trunk_input.features(target, terms.content.layers), None
        for rows in trunk_input.chunks(output):
            chunk = PerceptualChunk(
                trunk_input,
                terms,
                output[rows],
                None if target is None else target[rows],
                output_gradient,
                target_gradient,
            )
            by_name, *gradients = chunk.run(rows_of(contents, rows), rows_of(grams, rows), masks.rows(rows))
            loss, of_terms = summed(by_name, terms)
            losses.append(loss)
            values.append(of_terms)
            by_output, by_target = (
                written(made, rows, gradient) for made, gradient in zip((by_output, by_target), gradients, strict=True)
            )
    return joined(losses), joined(values, dim=1), by_output, by_target


@_perceptual_loss.register_fake
def _(output: Tensor, target: Tensor | None, *others: Any) -> tuple[Tensor, ...]:
    values = iter(others[4:])
    trunk_input, terms = TrunkInput.decoded(values), Terms.decoded(values)
    return empty_results(output, output if target is None else target, len(terms.names), trunk_input.wide, values)


_perceptual_loss.register_autograd(multiply_gradients, setup_context=keep_gradients)
