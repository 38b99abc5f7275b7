"""The loss and its gradient with respect to the images in one pass, a chunk of samples at a time.

The loss is one number a sample and the network is frozen, so the image's gradient is made while the loss is, and
multiplied by the upstream number of each sample when that is known. Nothing else is kept. custom_op.py says how
operators over a trunk are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batching import rows_of
from .custom_op import (
    Entry,
    empty_results,
    gradient_like,
    keep_gradients,
    multiply_gradients,
    wanted_gradients,
)
from .modes import by_hand
from .operator_settings import layer_names
from .perceptual_head import PerceptualHead
from .registry import trunk_of
from .terms import Terms
from .trunk import Trunk

operators = torch.ops.perceptual_ops


def trunk_features(images: Tensor, entry: Entry, layers: Sequence[str]) -> list[Tensor]:
    """Features (N, C, H', W') of images (N, 3, H, W) at layers of a chain, by a pass that keeps nothing else."""
    return _trunk_features(images, *entry.encoded(), "\n".join(layers))


@torch.library.custom_op(
    "perceptual_ops::trunk_features", mutates_args=(),
    schema=f"(Tensor images, {Entry.schema()}, str layers) -> Tensor[]",
)  # fmt: skip
def _trunk_features(images: Tensor, *settings: Any) -> list[Tensor]:
    values = iter(settings)
    entry, (layers,) = Entry.decoded(values), values
    with by_hand(images):
        parts = [entry.features(images[rows], layer_names(layers))[0] for rows in entry.chunks(images)]
        return [torch.cat(maps) if len(maps) > 1 else maps[0] for maps in zip(*parts, strict=True)]


@_trunk_features.register_fake
def _(images, *settings):
    values = iter(settings)
    entry, (layers,) = Entry.decoded(values), values
    chain = trunk_of(entry.trunk_key)
    assert isinstance(chain, Trunk), "whose sizes are known without running it"
    size = entry.input_size
    sizes = chain.sizes(*((size.height, size.width) if size.is_given else images.shape[2:]))
    shapes = [(images.shape[0], *sizes[name]) for name in layer_names(layers)]
    return [
        torch.empty(shape, dtype=entry.dtype, device=images.device, memory_format=torch.channels_last)
        for shape in shapes
    ]


def perceptual_loss(
    output: Tensor,  # (N, 3, H, W)
    target: Tensor | None,  # (N or 1, 3, H, W)
    contents: list[Tensor],  # K x (N or 1, C, H', W'), in place of the target
    grams: list[Tensor],  # S x (N or 1, C, C)
    entry: Entry,
    terms: Terms,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss (N) and its terms by name, each (N); its gradients are made at once where they are wanted."""
    target, *wanted = wanted_gradients(output, target)
    loss, values, *_ = _perceptual_loss(output, target, contents, grams, *entry.encoded(), *terms.encoded(), *wanted)
    return loss, dict(zip(terms.names, values, strict=True))


@torch.library.custom_op(
    "perceptual_ops::perceptual_loss", mutates_args=(),
    schema=f"(Tensor output, Tensor? target, Tensor[] contents, Tensor[] grams, {Entry.schema()}, {Terms.schema()}, "
    "bool output_gradient, bool target_gradient) -> (Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip
def _perceptual_loss(
    output: Tensor, target: Tensor | None, contents: list[Tensor], grams: list[Tensor], *settings: Any
) -> tuple[Tensor, ...]:
    """The loss (N), its terms (T, N) in the order of `Terms.names`, and its gradients with respect to output
    and target.

    Gradients that are not wanted are empty. A target whose gradient is wanted is one per sample. An empty batch does
    not run the network.
    """
    values = iter(settings)
    entry, terms = Entry.decoded(values), Terms.decoded(values)
    if not output.shape[0]:  # which few modules take
        return empty_results(output, output if target is None else target, len(terms.names), entry.wide, values)
    return entry.run(_loss_and_gradients, output, target, contents, grams, *settings)


def _loss_and_gradients(
    output: Tensor, target: Tensor | None, contents: list[Tensor], grams: list[Tensor], *settings: Any
) -> tuple[Tensor, ...]:
    """What `_perceptual_loss` returns, of one sample or more."""
    values = iter(settings)
    entry, terms, (output_gradient, target_gradient) = Entry.decoded(values), Terms.decoded(values), values
    by_output = gradient_like(output, entry.wide, output_gradient)
    by_target = gradient_like(output if target is None else target, entry.wide, target_gradient)
    found = []
    with by_hand(output):
        if target is not None and target.shape[0] < output.shape[0]:  # one for all, and for all chunks
            (contents, _), target = entry.features(target, terms.content.layers), None
        for rows in entry.chunks(output):
            chunk = _Chunk(
                entry,
                terms,
                output[rows],
                None if target is None else target[rows],
                by_output[rows] if output_gradient else None,
                by_target[rows] if target_gradient else None,
            )
            found.append(chunk.run(rows_of(contents, rows), rows_of(grams, rows)))
        loss, terms_of_samples = _summed(terms, torch.cat(found, dim=1))
    return loss, terms_of_samples, by_output, by_target


@_perceptual_loss.register_fake
def _(output, target, contents, grams, *settings):
    values = iter(settings)
    entry, terms = Entry.decoded(values), Terms.decoded(values)
    return empty_results(output, output if target is None else target, len(terms.names), entry.wide, values)


_perceptual_loss.register_autograd(multiply_gradients, setup_context=keep_gradients)


@dataclass(frozen=True)
class _Chunk:
    """A chunk of samples; gradients are written where they are wanted."""

    entry: Entry
    terms: Terms
    output: Tensor  # (n, 3, H, W)
    target: Tensor | None  # (n, 3, H, W)
    by_output: Tensor | None  # (n, 3, H, W)
    by_target: Tensor | None  # (n, 3, H, W)

    def run(self, contents: list[Tensor], grams: list[Tensor]) -> Tensor:
        """The unweighted values (L, n) of each layer, then of the total variation.

        Args:
            contents: K x (n or 1, C, H', W'), in place of the target; taken over.
            grams: S x (n or 1, C, C).
        """
        entry, terms, target_tape = self.entry, self.terms, None
        if self.target is not None:
            contents, target_tape = entry.features(self.target, terms.content.layers, self.by_target is not None)
        ones = self.output.new_ones(self.output.shape[0], dtype=entry.wide)
        wanted = self.by_output is not None, self.by_target is not None
        head = PerceptualHead(terms, ones, contents, grams, *wanted)
        # Nobody but the trunk holds its input, so that it is gone when it was read.
        (tape,) = entry.forward([(entry.normalized(self.output), head.meet, self.by_output is not None)], terms.layers)
        if self.target is not None and self.by_target is not None and target_tape is not None:
            self.by_target.copy_(entry.backward(target_tape, head.by_target, self.target, None))
        values = head.values()
        variation, by_variation = self._variation()
        if variation is not None:
            values.append(variation)
        if self.by_output is not None:
            self.by_output.copy_(entry.backward(tape, head, self.output, by_variation))
        return torch.stack(values)

    def _variation(self) -> tuple[Tensor | None, Tensor | None]:  # (n), (n, 3, H, W)
        """The total variation, where it is part of the loss, and its weighted gradient."""
        weight, dtype = self.terms.variation, self.entry.wide
        if not weight:
            return None, None
        if self.by_output is None:
            return operators.total_variation(self.output, "l2_squared").to(dtype), None
        value, gradient = operators.total_variation_with_gradient(self.output, "l2_squared")
        return value.to(dtype), gradient.to(dtype).mul_(weight)


def _summed(terms: Terms, values: Tensor) -> tuple[Tensor, Tensor]:  # (L, N) -> (N), (T, N)
    """The loss, and its terms in the order of `Terms.names`."""
    rest = list(values)
    weighted, rows = [], []
    for part in (terms.content, terms.style):
        if part.layers:
            own, rest = rest[: len(part.layers)], rest[len(part.layers) :]
            weighted.append(_weighted_sum(own, part.weights))
            rows += [weighted[-1], *own]
    if terms.variation:
        weighted.append(terms.variation * rest[0])
        rows.append(weighted[-1])
    return _weighted_sum(weighted, [1.0] * len(weighted)), torch.stack(rows)


def _weighted_sum(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:  # L x (N) -> (N)
    # Weights as numbers: a tensor of them would have to be brought to the device, which a CUDA graph does not capture.
    total = weights[0] * values[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total.add(value, alpha=weight)
    return total
