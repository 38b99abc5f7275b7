"""Styles by Grams, guided Grams or channel statistics: values, slopes and gradients.

A slope is d loss / d Gram or statistic; a gradient is with respect to the map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .channel_moments import STATISTICS, compare_statistics, gradients_by, slope_rows
from .frames import as_one_map, for_frames
from .masks import Mask, Masks
from .style_layout import split_style
from .style_parts import Measured, Targets, by_sums, style_sums
from .terms import Terms, compared

operators: Any = torch.ops.perceptual_ops


class Style(Protocol):
    """A kind of style of maps (n, C, H, W)."""

    def measured(self, maps: Mapping[str, Tensor], targets: Mapping[str, Targets]) -> Measured:
        """The style loss of maps of one dtype."""

    def gradients(
        self, scale: Tensor | None, maps: Mapping[str, Tensor], slopes: Sequence[Tensor], others: list[Tensor | None]
    ) -> list[Tensor]:
        """d(scale (n) * loss) / d maps, or parts of them, each plus another gradient of its shape."""

    def magnitude(self, slopes: Tensor) -> Tensor:  # (n, C, C or more)
        """Its row sums plus the offset bound the gradient of features of at most 1."""

    def offset(self, slopes: Tensor) -> Tensor | None:  # (n)
        """The largest part of the gradient that does not depend on the features; None for 0."""


@dataclass(frozen=True)
class WholeStyle:
    """The style over all pixels.

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

    def offset(self, slopes: Tensor) -> Tensor | None:
        return None


@dataclass(frozen=True)
class StatisticsStyle(WholeStyle):
    """The style over all pixels by channel means and deviations, beside the Grams or in their place."""

    def measured(self, maps: Mapping[str, Tensor], targets: Mapping[str, Targets]) -> Measured:
        features = [as_one_map(x, self.frames) for x in maps.values()]
        part, kind = self.terms.style, self.terms.style_statistics
        pairs = [split_style(targets[layer][0], kind) for layer in maps]
        found = operators.channel_statistics(features)
        weights = [part.weight_of(layer) for layer in maps]
        loss, values, slopes = compare_statistics(found, [own for _, own in pairs], weights, part)
        rows = [
            slope_rows(own, slope, x.shape[2] * x.shape[3])
            for own, slope, x in zip(found, slopes, features, strict=True)
        ]
        by_layer = {layer: slopes_of_frames(own, self.frames) for layer, own in zip(maps, rows, strict=True)}
        if not compared(kind)[0]:
            return Measured(loss, dict(zip(maps, values, strict=True)), by_layer)
        grams = super().measured(maps, {layer: [gram] for layer, (gram, _) in zip(maps, pairs, strict=True)})
        return Measured(
            loss + grams.loss,
            {layer: value + grams.values[layer] for layer, value in zip(maps, values, strict=True)},
            {layer: torch.cat([grams.slopes[layer], own], 1) for layer, own in by_layer.items()},
        )

    def gradients(
        self, scale: Tensor | None, maps: Mapping[str, Tensor], slopes: Sequence[Tensor], others: list[Tensor | None]
    ) -> list[Tensor]:
        pairs = [split_slopes(of_layer) for of_layer in slopes]
        found = others
        if compared(self.terms.style_statistics)[0]:
            found = [*super().gradients(scale, maps, [gram for gram, _ in pairs], others)]
        return gradients_by(scale, list(maps.values()), [rows for _, rows in pairs], found)

    def magnitude(self, slopes: Tensor) -> Tensor:
        gram, rows = split_slopes(slopes)
        # A feature's distance from the mean is at most twice the largest feature.
        by_deviation = 2 * rows[:, 3] / rows[:, 1]
        return torch.cat([gram, by_deviation[:, None]], 1).mT

    def offset(self, slopes: Tensor) -> Tensor | None:
        return split_slopes(slopes)[1][:, 2].abs().amax(1)


def split_slopes(slopes: Tensor) -> tuple[Tensor, Tensor]:  # (n, C + 4, C) or (n, 4, C)
    """The slopes of the Gram, if it is compared, and the rows of the statistics."""
    rows = slopes.shape[1] - 2 * STATISTICS
    return slopes[:, :rows], slopes[:, rows:]


@dataclass(frozen=True)
class GuidedStyle:
    """Guided Grams (Gatys et al. 2017): of features times a mask, one for each region, with a target of its own.

    The Gram of region k is the sum over pixels of m_k^2 x x^T, divided with the sum of m_k^2 as the number of pixels.
    An empty region has neither a loss nor a gradient.

    Attributes:
        terms: The terms of the loss, with the share of each region.
        guides: The masks of the regions.
        frames: See `style_of`.
    """

    terms: Terms
    guides: Sequence[Mask]
    frames: int

    def measured(self, maps: Mapping[str, Tensor], targets: Mapping[str, Targets]) -> Measured:
        found = []
        for layer, x in maps.items():
            sums = [sum.of_clips(self.frames) for sum in style_sums(layer, x, self.guides, "gram")]
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

    def offset(self, slopes: Tensor) -> Tensor | None:
        return None


def style_of(terms: Terms, masks: Masks, frames: int) -> Style:
    """The kind of style for these terms and masks.

    Args:
        frames: How many consecutive maps are frames of one clip, whose style is over all of them.
    """
    if masks.guides:
        return GuidedStyle(terms, masks.guides, frames)
    return (StatisticsStyle if compared(terms.style_statistics)[1] else WholeStyle)(terms, frames)


def slopes_of_frames(slopes: Tensor, length: int) -> Tensor:  # (n, C, C) or (K, n, C, C)
    """The slopes of clips, repeated for each frame."""
    return for_frames(slopes.movedim(-3, 0), length).movedim(0, -3)
