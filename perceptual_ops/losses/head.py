"""Values and tap gradients of the features of one chunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks as checks
from ..networks.gradient_scale import GradientScale
from .terms import Part, Terms

operators = torch.ops.perceptual_ops


class ContentGradients:
    """`TapGradients` of a content loss by each layer (n, C, H, W), made with the values; given out once.

    Args:
        gradients: By layer, times `made_with`.
        bounds: By layer, at least the largest unscaled magnitude (n); fp16 only.
        made_with: The scale (n) they were made with; fp16 only.
    """

    def __init__(self, gradients: dict[str, Tensor], bounds: dict[str, Tensor], made_with: Tensor | None) -> None:
        self._gradients, self._bounds, self._made_with = gradients, bounds, made_with
        self.scale = None if made_with is None else GradientScale(made_with)

    def __contains__(self, layer: str) -> bool:
        return layer in self._gradients

    def negated(self) -> ContentGradients:
        """The gradients by the target: a distance depends on x - y alone."""
        negated = {layer: -gradient for layer, gradient in self._gradients.items()}
        return ContentGradients(negated, self._bounds, self._made_with)

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        gradient = self._gradients.pop(layer)
        if scale is not None and self._made_with is not None:
            gradient.mul_((scale / self._made_with).view(-1, 1, 1, 1))
        return gradient

    def bound(self, layer: str) -> Tensor:
        return self._bounds[layer]


class Head:
    """The loss of one chunk by its features, and its `TapGradients`.

    Values come first, all layers in one call: the Grams are then gone, and what the style gradient needs is a matrix a
    layer. The content gradient is made with its value, in one pass over both maps, so that the target is gone too.

    Args:
        terms: What the loss is made of.
        features: Layer -> (n, C, H, W). Taken over: a layer is dropped when its gradient was made.
        contents: Targets of the content layers, (n or 1, C, H, W). Taken over.
        grams: Target Grams of the style layers, (n or 1, C, C).
        gradient: Whether gradients are to follow.

    Attributes:
        loss: The weighted sum of both parts (n).
        values: The terms (T, n) in the order of `Terms.names`.
        contents: The content part of the gradients.
        scale: Of the gradients, in fp16.
    """

    def __init__(
        self, terms: Terms, features: dict[str, Tensor], contents: list[Tensor], grams: Sequence[Tensor], gradient: bool
    ) -> None:
        self._features = features
        self._slopes: dict[str, Tensor] = {}
        self._parts: list[tuple[Tensor, Tensor]] = []  # weighted (n), of each layer (L, n)
        self.contents = ContentGradients({}, {}, None)
        first = next(iter(features.values()))
        self._upstream = first.new_ones(first.shape[0], dtype=checks.accumulator_dtype(first))
        self.scale = GradientScale(self._upstream) if gradient and first.dtype == torch.float16 else None
        if terms.content.layers:
            self._meet_contents(terms.content, contents, gradient)
        if terms.style.layers:
            self._meet_grams(terms.style, terms.gram_normalize, grams)
        self.loss = torch.stack([loss for loss, _ in self._parts]).sum(0)
        self.values = torch.cat([torch.cat([loss.unsqueeze(0), values]) for loss, values in self._parts])

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        x, slopes = self._features.pop(layer), self._slopes.pop(layer, None)
        content = self.contents.gradient(layer, scale) if layer in self.contents else None
        if slopes is None:
            assert content is not None
            return content
        (style,) = operators.style_loss_backward(self._upstream if scale is None else scale, [x], [slopes])
        return style if content is None else style.add_(content)

    def bound(self, layer: str) -> Tensor:
        bound = self.contents.bound(layer) if layer in self.contents else torch.zeros_like(self._upstream)
        if layer in self._slopes:
            bound = bound + self._slopes[layer].abs().sum(2).amax(1) * _largest(self._features[layer])
        return bound

    def _meet_contents(self, part: Part, contents: list[Tensor], gradient: bool) -> None:
        maps = [self._features[layer] for layer in part.layers]
        targets = [contents.pop(0).to(x.dtype) for x in maps]
        arguments = (maps, targets, list(part.weights), part.distance, part.parameter)
        if gradient:
            bounds, made_with = self._content_scale(part, maps, targets) if self.scale else ({}, None)
            loss, values, gradients = operators.feature_loss_with_gradient(*arguments, made_with)
            self.contents = ContentGradients(dict(zip(part.layers, gradients, strict=True)), bounds, made_with)
        else:
            loss, values = operators.feature_loss(*arguments)
        self._parts.append((loss, values))

    def _content_scale(
        self, part: Part, maps: list[Tensor], targets: list[Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:  # (n) each, (n)
        bounds = [_content_bound(x, y, weight, part) for x, y, weight in zip(maps, targets, part.weights, strict=True)]
        chosen = GradientScale(self._upstream)
        chosen.choose([torch.stack(bounds).amax(0)], 1.0, 1.0, first=True)
        return dict(zip(part.layers, bounds, strict=True)), chosen.current

    def _meet_grams(self, part: Part, normalize: str, grams: Sequence[Tensor]) -> None:
        maps = [self._features[layer] for layer in part.layers]
        targets = [gram.to(self._upstream.dtype) for gram in grams]
        loss, values, slopes = operators.style_loss(
            maps, targets, list(part.weights), normalize, part.distance, part.parameter
        )
        self._slopes = dict(zip(part.layers, slopes, strict=True))
        self._parts.append((loss, values))


def _largest(x: Tensor) -> Tensor:  # (n, C, H, W) -> (n) fp32
    return torch.linalg.vector_norm(x, torch.inf, dim=(1, 2, 3), dtype=torch.float32)


def _content_bound(x: Tensor, y: Tensor, weight: float, part: Part) -> Tensor:  # (n or 1, C, H, W) -> (n)
    """At least the largest magnitude of weight * scale * d'(x - y)."""
    share = abs(weight) * (1.0 if part.distance == "sse" else 1 / x[0].numel())
    if part.distance in ("mse", "sse"):
        return 2 * share * (_largest(x) + _largest(y))
    slope = part.parameter if part.distance == "huber" else 1.0
    return x.new_full((x.shape[0],), share * slope, dtype=torch.float32)
