"""The loss and the gradient by its images in one pass, a chunk of samples at a time.

The loss is one number a sample and the network is frozen, so the image's gradient is made while the loss is, and
multiplied by the upstream number of each sample when that is known. Nothing else is kept. Two operators, opaque to
torch.compile: the network is named by its key, and what the caller's modes say (autocast, whose gradient is wanted)
comes as an argument.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..networks.trunk import Tape, TapGradients, trunk_of
from .chunks import chunks, default_chunk_size
from .head import Head
from .targets import rows_of
from .terms import Part, Terms

operators = torch.ops.perceptual_ops


@dataclass(frozen=True)
class Entry:
    """How images enter a trunk: images * scale + shift, in the dtype of the arithmetic.

    Attributes:
        trunk: Key of the trunk.
        scale, shift: (1, 3, 1, 1).
        dtype: Of the arithmetic.
        chunk_size: Samples that go through the trunk at a time; 0: see `default_chunk_size`.
    """

    trunk: str
    scale: Tensor
    shift: Tensor
    dtype: torch.dtype
    chunk_size: int

    @property
    def wide(self) -> torch.dtype:
        """The dtype of losses and image gradients."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def chunks(self, images: Tensor) -> list[slice]:
        size = self.chunk_size or default_chunk_size(images.shape[2], images.shape[3], self.dtype, images.device.type)
        return chunks(images.shape[0], size)

    def forward(self, images: Tensor, layers: Sequence[str], keep: bool) -> tuple[dict[str, Tensor], Tape]:
        """Features of a chunk of images (n, 3, H, W)."""
        x = operators.normalize_images(images, self.scale.flatten(), self.shift.flatten(), self.dtype)
        return trunk_of(self.trunk).forward(x, layers, keep)

    def backward(self, tape: Tape, gradients: TapGradients, images: Tensor, add: Tensor | None) -> Tensor:
        """The gradient (n, 3, H, W) by a chunk of images, plus another one."""
        x = trunk_of(self.trunk).backward(tape, gradients)
        factor = None if gradients.scale is None else 1 / gradients.scale.current
        return operators.normalize_images_backward(x, images, self.scale.flatten(), factor, add)


@contextlib.contextmanager
def _by_hand(images: Tensor) -> Iterator[None]:
    """No graph, and every dtype as it is asked for."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        yield


@torch.library.custom_op("perceptual_ops::trunk_features", mutates_args=())
def trunk_features(
    images: Tensor,  # (N, 3, H, W)
    trunk: str,
    scale: Tensor,
    shift: Tensor,
    dtype: torch.dtype,
    chunk_size: int,
    layers: str,
) -> list[Tensor]:
    """Features (N, C, H', W') of each of the layers, by a pass that keeps nothing else."""
    entry, names = Entry(trunk, scale, shift, dtype, chunk_size), layers.split()
    with _by_hand(images):
        parts = []
        for rows in entry.chunks(images):
            features, _ = entry.forward(images[rows], names, keep=False)
            parts.append([features[name] for name in names])
        return [torch.cat(maps) if len(maps) > 1 else maps[0] for maps in zip(*parts, strict=True)]


@trunk_features.register_fake
def _(images, trunk, scale, shift, dtype, chunk_size, layers):
    sizes = trunk_of(trunk).sizes(*images.shape[2:])
    shapes = [(images.shape[0], *sizes[name]) for name in layers.split()]
    return [
        torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last) for shape in shapes
    ]


@torch.library.custom_op("perceptual_ops::perceptual_loss", mutates_args=())
def perceptual_loss(
    output: Tensor,  # (N, 3, H, W)
    target: Tensor | None,  # (N or 1, 3, H, W)
    contents: list[Tensor],  # K x (N or 1, C, H', W'), in place of the target
    grams: list[Tensor],  # S x (N or 1, C, C)
    trunk: str,
    scale: Tensor,
    shift: Tensor,
    dtype: torch.dtype,
    chunk_size: int,
    content_layers: str,
    content_weights: list[float],
    content_distance: str,
    content_parameter: float,
    style_layers: str,
    style_weights: list[float],
    style_distance: str,
    style_parameter: float,
    gram_normalize: str,
    variation: float,
    output_gradient: bool,
    target_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss (N), its terms (T, N) in the order of `Terms.names`, and its gradients by output and target.

    Gradients that are not wanted are empty. A target whose gradient is wanted is one per sample.
    """
    entry = Entry(trunk, scale, shift, dtype, chunk_size)
    terms = Terms(
        Part(tuple(content_layers.split()), tuple(content_weights), content_distance, content_parameter),
        Part(tuple(style_layers.split()), tuple(style_weights), style_distance, style_parameter),
        gram_normalize,
        variation,
    )
    by_output = _gradient_like(output, entry.wide, output_gradient)
    by_target = _gradient_like(output if target is None else target, entry.wide, target_gradient)
    found = []
    with _by_hand(output):
        shared = None
        if target is not None and target.shape[0] == 1 and output.shape[0] > 1 and not target_gradient:
            features, _ = entry.forward(target, terms.content.layers, keep=False)
            shared = [features[layer] for layer in terms.content.layers]
        for rows in entry.chunks(output):
            own = None if target is None or shared else target[rows]
            *numbers, of_output, of_target = _chunk_loss(
                entry, terms, output[rows], own, list(shared or rows_of(contents, rows)), rows_of(grams, rows),
                output_gradient, target_gradient,
            )  # fmt: skip
            found.append(numbers)
            if of_output is not None:
                by_output[rows] = of_output
            if of_target is not None:
                by_target[rows] = of_target
        loss, values = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
    return loss, values, by_output, by_target


@perceptual_loss.register_fake
def _(output, target, contents, grams, trunk, scale, shift, dtype, chunk_size, content_layers, content_weights,
      content_distance, content_parameter, style_layers, style_weights, style_distance, style_parameter,
      gram_normalize, variation, output_gradient, target_gradient):  # fmt: skip
    wide = Entry(trunk, scale, shift, dtype, chunk_size).wide
    content, style = len(content_weights), len(style_weights)
    terms = content + style + bool(content) + bool(style) + bool(variation)
    return (
        output.new_empty(output.shape[0], dtype=wide),
        output.new_empty((terms, output.shape[0]), dtype=wide),
        _gradient_like(output, wide, output_gradient),
        _gradient_like(output if target is None else target, wide, target_gradient),
    )


def _gradient_like(images: Tensor, dtype: torch.dtype, wanted: bool) -> Tensor:
    return torch.empty_like(images, dtype=dtype) if wanted else images.new_empty(0, dtype=dtype)


def _chunk_loss(
    entry: Entry,
    terms: Terms,
    output: Tensor,  # (n, 3, H, W)
    target: Tensor | None,  # (n, 3, H, W)
    contents: list[Tensor],  # K x (n or 1, C, H', W'), in place of the target; taken over
    grams: list[Tensor],  # S x (n or 1, C, C)
    wants_output: bool,
    wants_target: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # (n), (T, n), like output, like target
    """A chunk on its way: target, output, head, and back."""
    by_output = by_target = target_tape = None
    if target is not None:
        targets, target_tape = entry.forward(target, terms.content.layers, keep=wants_target)
        contents = [targets.pop(layer) for layer in terms.content.layers]
    features, tape = entry.forward(output, terms.layers, keep=wants_output)
    head = Head(terms, features, contents, grams, wants_output or wants_target)
    if target is not None and target_tape is not None and wants_target:
        by_target = entry.backward(target_tape, head.contents.negated(), target, None)
    loss, values = head.loss, head.values
    variation, by_variation = _variation(terms.variation, output, entry.wide, wants_output)
    if variation is not None:
        loss, values = loss + variation, torch.cat([values, variation.unsqueeze(0)])
    if wants_output:
        by_output = entry.backward(tape, head, output, by_variation)
    return loss, values, by_output, by_target


def _variation(
    weight: float, images: Tensor, dtype: torch.dtype, gradient: bool
) -> tuple[Tensor | None, Tensor | None]:  # (n), (n, 3, H, W)
    """The weighted total variation, where it is part of the loss, and its gradient."""
    if not weight:
        return None, None
    if not gradient:
        return weight * operators.total_variation(images, "l2_squared").to(dtype), None
    value, gradient_by_images = operators.total_variation_with_gradient(images, "l2_squared")
    return weight * value.to(dtype), gradient_by_images.to(dtype).mul_(weight)


def _setup(ctx, inputs, output):
    images, target = inputs[:2]
    by_output, by_target = output[2:]
    ctx.dtypes = images.dtype, None if target is None else target.dtype
    ctx.wanted = inputs[-2:]
    # A list of tensors wants a list of gradients, and so does an empty one, whatever it was to hold.
    ctx.others = [
        [None] * len(value) if isinstance(value, list) and all(isinstance(x, Tensor) for x in value) else None
        for value in inputs[2:]
    ]
    ctx.mark_non_differentiable(output[1], by_output, by_target)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(by_output, by_target)


def _backward(ctx, grad, *_non_differentiable):
    if grad is None:
        return None, None, *ctx.others
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the gradient of this loss was made in its forward and cannot be differentiated again; make the loss with "
            'engine="autograd" for create_graph=True'
        )
    # Out of place: a second backward finds the same gradients.
    found = [
        (made * grad.view(-1, 1, 1, 1)).to(dtype) if wanted else None
        for made, dtype, wanted in zip(ctx.saved_tensors, ctx.dtypes, ctx.wanted, strict=True)
    ]
    return *found, *ctx.others


perceptual_loss.register_autograd(_backward, setup_context=_setup)
