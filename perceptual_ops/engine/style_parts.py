"""Sums over pixels that a style consists of, and the loss as a function of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _checks as checks
from ..reference import gram_divisor
from .channel_moments import compare_statistics, merged, moments_of, moments_over_frames, slope_rows, statistics_by
from .masks import LayerMask, Mask
from .style_layout import split_style
from .terms import Part, Terms, compared

operators: Any = torch.ops.perceptual_ops

Targets = Sequence[Tensor]  # target styles (n or 1, R, C) of a layer, one for each region


@dataclass(frozen=True)
class StyleSum:
    """A raw Gram, channel moments and their number of pixels; what is not compared has no rows.

    Attributes:
        gram: (n, C, C).
        pixels: How many; of masked features the sum of the mask's squares, (n or 1, 1, 1).
        moments: (n, 2, C), see channel_moments.py.
    """

    gram: Tensor
    pixels: Tensor | int
    moments: Tensor

    @classmethod
    def of_gram(cls, gram: Tensor, pixels: Tensor | int) -> StyleSum:
        """Of a Gram alone."""
        return cls(gram, pixels, gram[:, :0])

    def __add__(self, other: StyleSum) -> StyleSum:
        pixels = self.pixels + other.pixels
        moments = self.moments
        if moments.shape[1]:
            assert isinstance(other.pixels, int) and isinstance(pixels, int), "masks are for Grams"
            moments = merged(moments, other.moments, other.pixels / max(pixels, 1))
        return StyleSum(self.gram + other.gram, pixels, moments)

    def wide(self) -> StyleSum:
        """In fp64, to be added up."""
        wide = checks.widest(self.gram.device)
        pixels = self.pixels.to(wide) if isinstance(self.pixels, Tensor) else self.pixels
        return StyleSum(self.gram.to(wide), pixels, self.moments)

    def pixels_of(self, samples: int) -> Tensor:  # (n, 1, 1)
        """The pixels of each sample as a tensor."""
        if isinstance(self.pixels, Tensor):
            return self.pixels.expand(samples, 1, 1)
        return self.gram.new_full((samples, 1, 1), self.pixels)

    def of_clips(self, length: int) -> StyleSum:
        """Of frames (n * T, C, C) that of their clips, over all pixels."""
        pixels = self.pixels
        if isinstance(pixels, Tensor):
            pixels = pixels.expand(self.gram.shape[0], 1, 1).unflatten(0, (-1, length)).sum(1)
        else:
            pixels = length * pixels
        gram, moments = (x.unflatten(0, (-1, length)) for x in (self.gram, self.moments))
        of_clips = moments_over_frames(moments) if moments.shape[2] else moments[:, 0]
        return StyleSum(gram.sum(1), pixels, of_clips)

    def divisor(self, normalize: str) -> Tensor | int:  # (n or 1, 1, 1)
        """The divisor of the Gram, `reference.gram_divisor`; 1 for an empty mask."""
        if isinstance(self.pixels, int):
            return gram_divisor(normalize, self.gram.shape[2], self.pixels, 1)
        return masked_divisor(normalize, self.gram.shape[2], self.pixels)

    def style(self, normalize: str) -> Tensor:  # (n, R, C)
        """What is compared."""
        gram = self.gram / self.divisor(normalize)
        return torch.cat([gram, statistics_by(self.moments)], 1) if self.moments.shape[1] else gram


def no_sum(target: Tensor, samples: int, style_statistics: str) -> StyleSum:  # (n or 1, R, C)
    """Of no pixels."""
    wide = checks.widest(target.device)
    gram, moments = (x.new_zeros((samples, *x.shape[1:]), dtype=wide) for x in split_style(target, style_statistics))
    return StyleSum(gram, 0, moments)


@dataclass(frozen=True)
class Measured:
    """The style of some layers.

    Attributes:
        loss: (n).
        values: Of each layer (n), unweighted.
        slopes: d loss / d raw Gram of each layer, symmetrised: (n, C, C), or (K, n, C, C) of K regions. With
            statistics (n, C + 4, C) or (n, 4, C): the last rows are those of `channel_moments.slope_rows`.
    """

    loss: Tensor
    values: Mapping[str, Tensor]
    slopes: Mapping[str, Tensor]


def style_sums(layer: str, x: Tensor, guides: Sequence[Mask], style_statistics: str) -> list[StyleSum]:
    """The style sums of a map (n, C, h, w) or a part of it, one for each guide if there are any."""
    none = x.new_empty((x.shape[0], 0, x.shape[1]), dtype=checks.widest(x.device))
    if not guides:
        grams, statistics = compared(style_statistics)
        gram = operators.gram_matrix(x, "none") if grams else none
        return [StyleSum(gram, x.shape[2] * x.shape[3], moments_of(x) if statistics else none)]
    masks = [guide.of(layer, x) for guide in guides]
    return [StyleSum(operators.gram_matrix(masked_features(x, mask), "none"), mask.squares, none) for mask in masks]


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


def by_sums(terms: Terms, layer: str, sums: Sequence[StyleSum], targets: Targets) -> Measured:
    """The style of a layer from the sums over its whole map, or over its regions."""
    found = []
    for share, sum, target in zip(terms.shares, sums, targets, strict=True):
        loss, value, slope = _by_sum(sum, terms, target, share * terms.style.weight_of(layer))
        measured = loss, share * value, slope
        found.append([only_there(sum.pixels, x) if isinstance(sum.pixels, Tensor) else x for x in measured])
    losses, values, slopes = (torch.stack(kind) for kind in zip(*found, strict=True))
    has_regions = isinstance(sums[0].pixels, Tensor)
    return Measured(losses.sum(0), {layer: values.sum(0)}, {layer: slopes if has_regions else slopes[0]})


def _by_sum(
    sum: StyleSum,
    terms: Terms,
    target: Tensor,  # (n or 1, R, C)
    weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss (n) of a sum, its unweighted value (n), and its slopes as of `Measured`."""
    of_gram, of_statistics = split_style(target, terms.style_statistics)
    found = [_by_gram(sum, terms.gram_normalize, of_gram, weight, terms.style)] if sum.gram.shape[1] else []
    if sum.moments.shape[1]:
        assert isinstance(sum.pixels, int), "masks are for Grams"
        own = statistics_by(sum.moments).to(target.dtype)
        loss, (value,), (slope,) = compare_statistics([own], [of_statistics], [weight], terms.style)
        found.append((loss, value, slope_rows(own, slope, sum.pixels)))
    if len(found) == 1:
        return found[0]
    losses, values, slopes = zip(*found, strict=True)
    return torch.stack(losses).sum(0), torch.stack(values).sum(0), torch.cat(slopes, 1)


def _by_gram(
    sum: StyleSum,
    normalize: str,
    target: Tensor,  # (n or 1, C, C)
    weight: float,
    part: Part,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss (n) of a Gram, its unweighted value (n), and d loss / d raw Gram (n, C, C)."""
    divisor = sum.divisor(normalize)
    gram = (sum.gram / divisor).to(target.dtype).unsqueeze(1)  # as a map (n, 1, C, C), whose distance is the same
    arguments = [gram], [target.unsqueeze(1)], [weight], part.distance, part.parameter
    loss, (value,), (slope,) = operators.feature_loss_with_gradient(*arguments)
    slope = slope.squeeze(1)
    return loss, value, ((slope + slope.mT) / divisor).to(target.dtype)
