"""The settings of a perceptual loss: attributes that are checked when set, and what the engines take of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

from torch import nn

from .. import _checks as checks
from .._settings import Converted, Fixed, fixed, setting
from ..engine.input_size import RESIZE_MODES
from ..engine.terms import FEATURE_NORMALIZATIONS, STYLE_STATISTICS, Part, Terms
from ..names import (
    Distance,
    FeatureDistance,
    FeatureNormalization,
    GramNormalization,
    GramSpan,
    NetworkName,
    Reduction,
    ResizeMode,
    StyleStatistics,
)
from ..networks.weights import WeightSource
from .arguments import LayerWeights, checked_size, part_layers, part_weight, part_weights
from .kept_targets import LossWithTargets
from .options import EngineOptions

GRAMS_OVER: tuple[GramSpan, ...] = get_args(GramSpan)


class PerceptualArguments(EngineOptions, total=False):
    """All arguments of a `PerceptualLoss`, which describes them, for those who pass some on."""

    network: NetworkName | nn.Module
    weights: WeightSource
    content_layers: LayerWeights | Literal["default"] | None
    style_layers: LayerWeights | None
    content_weight: float
    style_weight: float
    tv_weight: float
    content_distance: FeatureDistance
    style_distance: Distance
    gram_normalize: GramNormalization
    gram_over: GramSpan
    style_statistics: StyleStatistics
    normalize_features: FeatureNormalization
    input_size: int | tuple[int, int] | None
    resize_mode: ResizeMode
    drop_tokens: int
    input_range: tuple[float, float]
    reduction: Reduction
    mean: Sequence[float] | None
    std: Sequence[float] | None
    eps: float
    delta: float


class PerceptualSettings(LossWithTargets):
    """Those that `PerceptualLoss` describes; a new value of some drops the targets that it does not fit."""

    _content_layers: dict[str, float]
    _style_layers: dict[str, float]
    content_layers: Converted[tuple[str, ...], LayerWeights | None] = part_layers(
        "content", changed=lambda loss: loss._forget_target("content")
    )
    style_layers: Converted[tuple[str, ...], LayerWeights | None] = part_layers(
        "style", changed=lambda loss: loss._forget_target("style")
    )
    content_weights: Converted[tuple[float, ...], Sequence[float]] = part_weights("content")
    style_weights: Converted[tuple[float, ...], Sequence[float]] = part_weights("style")
    content_weight: float = part_weight("content")
    style_weight: float = part_weight("style")
    tv_weight: float = setting("tv_weight", checks.check_number)
    content_distance: FeatureDistance = setting(
        "content_distance", partial(checks.check_choice, choices=checks.CONTENT_DISTANCES)
    )
    style_distance: Distance = setting("style_distance", partial(checks.check_choice, choices=checks.DISTANCES))
    gram_normalize: GramNormalization = setting(
        "gram_normalize",
        partial(checks.check_choice, choices=checks.NORMALIZATIONS),
        changed=lambda loss: loss._forget_target("style"),
    )
    gram_over: GramSpan = setting(
        "gram_over",
        partial(checks.check_choice, choices=GRAMS_OVER),
        changed=lambda loss: loss._forget_target("style"),
    )
    style_statistics: StyleStatistics = setting(
        "style_statistics",
        partial(checks.check_choice, choices=STYLE_STATISTICS),
        changed=lambda loss: loss._forget_target("style"),
    )
    normalize_features: FeatureNormalization = setting(
        "normalize_features",
        partial(checks.check_choice, choices=FEATURE_NORMALIZATIONS),
        changed=lambda loss: loss._forget_target("style"),
    )
    input_size: Converted[tuple[int, int] | None, int | Sequence[int] | None] = setting(
        "input_size", checked_size, changed=lambda loss: loss._forget_targets()
    )
    resize_mode: ResizeMode = setting(
        "resize_mode",
        partial(checks.check_choice, choices=RESIZE_MODES),
        changed=lambda loss: loss._forget_targets(),
    )
    drop_tokens: Fixed[int] = fixed("drop_tokens", read=lambda loss: getattr(loss._network, "drop_tokens", 0))
    reduction: Reduction = setting("reduction", partial(checks.check_choice, choices=checks.REDUCTIONS))
    eps: float = setting("eps", checks.check_positive)
    delta: float = setting("delta", checks.check_positive)

    @property
    def network_layers(self) -> list[str]:
        return list(dict.fromkeys([*self._content_layers, *self._style_layers]))

    def extra_repr(self) -> str:
        content = dict(zip(self.content_layers, self.content_weights, strict=True))
        style = dict(zip(self.style_layers, self.style_weights, strict=True))
        parts = f"content={content}, style={style}, tv={self.tv_weight}"
        return f"{super().extra_repr()}, {parts}, reduction={self.reduction!r}"

    def check_guides(self, guides: Sequence[object]) -> None:
        """Refuses masks, of a call or of regions, that the style part cannot have."""
        if self.style_statistics != "gram" and self.style_layers and guides:
            raise ValueError(
                "mask: expected None, and no masks of set_style, for a style of means and deviations; set "
                f'style_statistics="gram", which is {self.style_statistics!r}'
            )

    def identity(self) -> dict[str, object]:
        return super().identity() | {"gram_over": self.gram_over, **vars(self.terms()), "shares": self._shares}

    def terms(self, shares: tuple[float, ...] = (1.0,), of_clips: bool = False) -> Terms:
        """The settings as the engines take them; read at each call, since the attributes are the user's."""
        low, high = self.input_range
        content = checks.check_distance(self.content_distance, self.eps, self.delta, checks.CONTENT_DISTANCES)
        style = checks.check_distance(self.style_distance, self.eps, self.delta)
        return Terms(
            Part(self.content_layers, self.content_weights, self.content_distance, content),
            Part(self.style_layers, self.style_weights, self.style_distance, style),
            self.gram_normalize,
            self.tv_weight / (high - low) ** 2,
            self.normalize_features,
            of_clips,
            shares,
            self.style_statistics,
        )
