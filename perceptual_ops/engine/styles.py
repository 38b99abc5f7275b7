"""The style of maps, by their Grams or by guided ones: values, slopes and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .. import _checks as checks
from ..reference import gram_divisor
from .frames import as_one_map, for_frames
from .masks import LayerMask, Mask, Masks
from .terms import Part, Terms

operators = torch.ops.perceptual_ops

Targets = Sequence[Tensor]  # target Grams (n or 1, C, C) of a layer, one for each region


@dataclass(frozen=True)
class GramSum:
    """A raw Gram and what it is over.

    Attributes:
        gram: (n, C, C).
        pixels: How many; of masked features the sum of the mask's squares, (n or 1, 1, 1).
    """

    gram: Tensor
    pixels: Tensor | int

    def __add__(self, other: GramSum) -> GramSum:
        return GramSum(self.gram + other.gram, self.pixels + other.pixels)

    def wide(self) -> GramSum:
        """In fp64, to be added up."""
        pixels = self.pixels.double() if isinstance(self.pixels, Tensor) else self.pixels
        return GramSum(self.gram.double(), pixels)

    def pixels_of(self, samples: int) -> Tensor:  # (n, 1, 1)
        """The pixels of each sample as a tensor."""
        if isinstance(self.pixels, Tensor):
            return self.pixels.expand(samples, 1, 1)
        return self.gram.new_full((samples, 1, 1), self.pixels)

    def of_clips(self, length: int) -> GramSum:
        """Of frames (n * T, C, C) that of their clips, over all pixels."""
        pixels = self.pixels
        if isinstance(pixels, Tensor):
            pixels = pixels.expand(self.gram.shape[0], 1, 1).unflatten(0, (-1, length)).sum(1)
        else:
            pixels = length * pixels
        return GramSum(self.gram.unflatten(0, (-1, length)).sum(1), pixels)

    def divisor(self, normalize: str) -> Tensor | int:  # (n or 1, 1, 1)
        """What the Gram is divided by, `reference.gram_divisor`; 1 for an empty mask."""
        if isinstance(self.pixels, int):
            return gram_divisor(normalize, self.gram.shape[1], self.pixels, 1)
        return masked_divisor(normalize, self.gram.shape[1], self.pixels)


def no_sum(target: Tensor, samples: int) -> GramSum:  # (n or 1, C, C)
    """Of no pixels."""
    return GramSum(target.new_zeros((samples, *target.shape[1:]), dtype=torch.float64), 0)


@dataclass(frozen=True)
class Measured:
    """The style of some layers.

    Attributes:
        loss: (n).
        values: Of each layer (n), unweighted.
        slopes: Of the loss by each layer's raw Gram, symmetrised: (n, C, C), or (K, n, C, C) of K regions.
    """

    loss: Tensor
    values: Mapping[str, Tensor]
    slopes: Mapping[str, Tensor]


class Style(Protocol):
    """How the style of maps (n, C, H, W) is measured."""

    def measured(self, maps: Mapping[str, Tensor], targets: Mapping[str, Targets]) -> Measured:
        """That of maps of one dtype."""

    def gradients(
        self, scale: Tensor | None, maps: Mapping[str, Tensor], slopes: Sequence[Tensor], others: list[Tensor | None]
    ) -> list[Tensor]:
        """The gradients of scale (n) times the loss by maps or parts of them, each plus another of its shape."""

    def magnitude(self, slopes: Tensor) -> Tensor:  # (n, C, C)
        """Whose sums over a row bound the gradient where no feature is above 1."""


@dataclass(frozen=True)
class WholeStyle:
    """That of all pixels.

    Attributes:
        frames: See `style_of`.
    """

    terms: Terms
    frames: int

    def measured(self, maps: Mapping[str, Tensor], targets: Mapping[str, Targets]) -> Measured:
        part = self.terms.style
        loss, values, slopes = operators.style_loss(
            [as_one_map(x, self.frames) for x in maps.values()], [targets[layer][0] for layer in maps],
            [part.weight_of(layer) for layer in maps], self.terms.gram_normalize, part.distance, part.parameter,
        )  # fmt: skip
        of_frames = [slopes_of_frames(slope, self.frames) for slope in slopes]
        return Measured(loss, dict(zip(maps, values, strict=True)), dict(zip(maps, of_frames, strict=True)))

    def gradients(
        self, scale: Tensor | None, maps: Mapping[str, Tensor], slopes: Sequence[Tensor], others: list[Tensor | None]
    ) -> list[Tensor]:
        return operators.style_loss_backward(scale, list(maps.values()), slopes, others)

    def magnitude(self, slopes: Tensor) -> Tensor:
        return slopes


@dataclass(frozen=True)
class GuidedStyle:
    """Guided Grams (Gatys et al. 2017): of features times a mask, one for each region, with a target of its own.

    The Gram of region k is the sum over pixels of m_k^2 x x^T, divided with the sum of m_k^2 as the number of pixels.
    An empty region has neither a loss nor a gradient.

    Attributes:
        terms: What the loss is made of, and the share of each region.
        guides: The masks of the regions.
        frames: See `style_of`.
    """

    terms: Terms
    guides: Sequence[Mask]
    frames: int

    def measured(self, maps: Mapping[str, Tensor], targets: Mapping[str, Targets]) -> Measured:
        found = []
        for layer, x in maps.items():
            sums = [sum.of_clips(self.frames) for sum in gram_sums(layer, x, self.guides)]
            found.append(by_sums(self.terms, layer, sums, targets[layer]))
        values: dict[str, Tensor] = {}
        slopes: dict[str, Tensor] = {}
        for of_layer in found:
            values |= of_layer.values
            slopes |= {layer: slopes_of_frames(x, self.frames) for layer, x in of_layer.slopes.items()}
        return Measured(torch.stack([of_layer.loss for of_layer in found]).sum(0), values, slopes)

    def gradients(
        self, scale: Tensor | None, maps: Mapping[str, Tensor], slopes: Sequence[Tensor], others: list[Tensor | None]
    ) -> list[Tensor]:
        triples = zip(maps.items(), slopes, others, strict=True)
        return [self._gradient(scale, layer, x, of_layer, other) for (layer, x), of_layer, other in triples]

    def _gradient(
        self,
        scale: Tensor | None,
        layer: str,
        x: Tensor,  # (n, C, h, w)
        slopes: Tensor,  # (K, n, C, C)
        found: Tensor | None,  # (n, C, h, w)
    ) -> Tensor:
        for guide, slope in zip(self.guides, slopes, strict=True):
            (gradient,) = operators.style_loss_backward(scale, [x], [slope], [None])
            gradient.mul_(guide.of(layer, x).pixels.square())
            found = gradient if found is None else found.add_(gradient)
        assert found is not None, "there is a region"
        return found

    def magnitude(self, slopes: Tensor) -> Tensor:
        return slopes.abs().sum(0)


def style_of(terms: Terms, masks: Masks, frames: int) -> Style:
    """That of maps with such masks.

    Args:
        frames: How many maps in turn are of one clip, whose Gram is over all of them.
    """
    return GuidedStyle(terms, masks.guides, frames) if masks.guides else WholeStyle(terms, frames)


def slopes_of_frames(slopes: Tensor, length: int) -> Tensor:  # (n, C, C) or (K, n, C, C)
    """Those of clips for each of their frames."""
    return for_frames(slopes.movedim(-3, 0), length).movedim(0, -3)


def gram_sums(layer: str, x: Tensor, guides: Sequence[Mask]) -> list[GramSum]:
    """The raw Gram of a map (n, C, h, w) or a part of it, or one for each guide."""
    if not guides:
        return [GramSum(operators.gram_matrix(x, "none"), x.shape[2] * x.shape[3])]
    masks = [guide.of(layer, x) for guide in guides]
    return [GramSum(operators.gram_matrix(masked_features(x, mask), "none"), mask.squares) for mask in masks]


def masked_features(x: Tensor, mask: LayerMask) -> Tensor:  # (n, C, h, w)
    return (x * mask.pixels).to(x.dtype)


def masked_divisor(normalize: str, channels: int, squares: Tensor) -> Tensor:  # (n or 1, 1, 1)
    """As `reference.gram_divisor`, with a mask's sum of squares for the number of pixels; 1 for an empty mask."""
    sizes = {"none": torch.ones_like(squares), "hw": squares, "chw": channels * squares}
    if normalize not in sizes:
        raise checks.unknown("normalize", normalize, checks.NORMALIZATIONS)
    return torch.where(squares == 0, 1, sizes[normalize])


def only_there(squares: Tensor, x: Tensor) -> Tensor:  # (n or 1, 1, 1), (n, ...)
    """0 for samples whose mask is empty."""
    return torch.where(squares.view(-1, *[1] * (x.dim() - 1)) == 0, 0, x)


def by_sums(terms: Terms, layer: str, sums: Sequence[GramSum], targets: Targets) -> Measured:
    """The style of a layer by the raw Grams of its whole map; of regions where they have masks."""
    found = []
    for share, sum, target in zip(terms.shares, sums, targets, strict=True):
        loss, value, slope = _by_gram(
            sum, terms.gram_normalize, target, share * terms.style.weight_of(layer), terms.style
        )
        measured = loss, share * value, slope
        found.append([only_there(sum.pixels, x) if isinstance(sum.pixels, Tensor) else x for x in measured])
    losses, values, slopes = (torch.stack(kind) for kind in zip(*found, strict=True))
    has_regions = isinstance(sums[0].pixels, Tensor)
    return Measured(losses.sum(0), {layer: values.sum(0)}, {layer: slopes if has_regions else slopes[0]})


def _by_gram(
    sum: GramSum,
    normalize: str,
    target: Tensor,  # (n or 1, C, C)
    weight: float,
    part: Part,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss (n) by a Gram, its unweighted value (n), and its slope by the raw Gram (n, C, C)."""
    divisor = sum.divisor(normalize)
    gram = (sum.gram / divisor).to(target.dtype).unsqueeze(1)  # as a map (n, 1, C, C), whose distance is the same
    arguments = [gram], [target.unsqueeze(1)], [weight], part.distance, part.parameter
    loss, (value,), (slope,) = operators.feature_loss_with_gradient(*arguments)
    slope = slope.squeeze(1)
    return loss, value, ((slope + slope.mT) / divisor).to(target.dtype)
