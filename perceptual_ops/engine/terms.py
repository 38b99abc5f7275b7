"""The terms of a perceptual loss, for both engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from torch import Tensor

from .. import _checks as checks
from ..names import FeatureNormalization, GramNormalization, StyleStatistics
from .operator_settings import OperatorSettings

FEATURE_NORMALIZATIONS: tuple[FeatureNormalization, ...] = get_args(FeatureNormalization)
STYLE_STATISTICS: tuple[StyleStatistics, ...] = get_args(StyleStatistics)


@dataclass(frozen=True)
class Part(OperatorSettings):
    """The content or the style of a loss.

    Attributes:
        layers: Names of its layers; empty where there is no such part.
        weights: One for each layer, the weight of the part included.
        distance: See `perceptual_ops.style_loss`, with its parameter (`_checks.check_distance`).
    """

    layers: tuple[str, ...]
    weights: tuple[float, ...]
    distance: str
    parameter: float

    def weight_of(self, layer: str) -> float:
        """That of one of its layers."""
        return self.weights[self.layers.index(layer)]


NO_PART = Part((), (), "mse", 0.0)


@dataclass(frozen=True)
class Terms(OperatorSettings):
    """Content, style and total variation.

    Attributes:
        content, style: The parts over features.
        gram_normalize: See `perceptual_ops.gram_matrix`.
        normalize_features: "none", or "channel" for features of unit length over their channels.
        of_clips: Whether samples are clips (N, C, T, H, W) with at least one Gram, each over all frames.
            Content and variation are means over frames.
        variation: Weight of the total variation of the images as they come.
        shares: Of the regions that style is compared in, each with a target of its own.
        style_statistics: What styles are compared by: "gram", "mean_std", means and deviations of the channels, "both".
    """

    content: Part
    style: Part
    gram_normalize: GramNormalization
    variation: float
    normalize_features: FeatureNormalization = "none"
    of_clips: bool = False
    shares: tuple[float, ...] = (1.0,)
    style_statistics: StyleStatistics = "gram"

    @property
    def is_of_unit_features(self) -> bool:
        """Whether features are brought to unit length first."""
        if self.normalize_features not in ("none", "channel"):
            raise checks.unknown("normalize_features", self.normalize_features, FEATURE_NORMALIZATIONS)
        return self.normalize_features == "channel"

    @property
    def layers(self) -> tuple[str, ...]:
        """Every layer, once."""
        return tuple(dict.fromkeys((*self.content.layers, *self.style.layers)))

    def of_frames(self, count: int) -> Terms:
        """Those of one of `count` frames, whose content and variation add up to a clip's."""
        weights = tuple(weight / count for weight in self.content.weights)
        content = replace(self.content, weights=weights)
        return replace(self, content=content, variation=self.variation / count, of_clips=False)

    def by_layer(self, grams: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Target Grams by style layer, one for each region; those of a region follow each other."""
        layers = self.style.layers
        return {layer: list(grams[i :: len(layers)]) for i, layer in enumerate(layers)}

    @property
    def names(self) -> tuple[str, ...]:
        """The terms: each part, weighted, and its layers, unweighted."""
        content = ("content", *(f"content/{layer}" for layer in self.content.layers))
        style = ("style", *(f"style/{layer}" for layer in self.style.layers))
        return (
            *(content if self.content.layers else ()),
            *(style if self.style.layers else ()),
            *(("tv",) if self.variation else ()),
        )


def compared(style_statistics: str) -> tuple[bool, bool]:
    """Whether styles are compared by their Grams, and whether by means and deviations."""
    known = {"gram": (True, False), "mean_std": (False, True), "both": (True, True)}
    if style_statistics not in known:
        raise checks.unknown("style_statistics", style_statistics, STYLE_STATISTICS)
    return known[style_statistics]
