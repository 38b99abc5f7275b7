"""Values and gradients by the features of one chunk, layer by layer as the trunk makes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..networks.gradient_scale import GradientScale
from .terms import Part, Terms

operators = torch.ops.perceptual_ops


class LayerGradients:
    """`TapGradients` that were made before, each given out once.

    Args:
        ones: (n), in the accumulation dtype.
        scaled: Whether they are scaled by powers of two, in fp16.
    """

    def __init__(self, ones: Tensor, scaled: bool) -> None:
        self.scale = GradientScale(ones) if scaled else None
        self._made: dict[str, tuple[Tensor, Tensor | None, Tensor | None]] = {}

    def put(self, layer: str, gradient: Tensor, scale: Tensor | None, bound: Tensor | None) -> None:
        """A gradient (n, C, H, W) times scale (n), and the bound of its unscaled magnitude (n)."""
        self._made[layer] = gradient, scale, bound

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        gradient, made_with, _ = self._made.pop(layer)
        if scale is not None and made_with is not None:
            gradient.mul_((scale / made_with).view(-1, 1, 1, 1))
        return gradient

    def bound(self, layer: str) -> Tensor:
        bound = self._made[layer][2]
        assert bound is not None, "bounds are for scaled gradients"
        return bound


class Head:
    """The loss of one chunk, made of each tapped map when the trunk has it.

    Its gradient by a map is made at once too: the map is then gone, and the gradient waits in its place.

    Args:
        terms: What the loss is made of.
        ones: (n), in the accumulation dtype.
        scaled: Whether gradients are scaled by powers of two, in fp16.
        contents: Targets of the content layers, (n or 1, C, H, W). Taken over: a target is dropped when it was met.
        grams: Target Grams of the style layers, (n or 1, C, C).
        by_output, by_target: Whether gradients by the output's and by the target's maps are wanted.

    Attributes:
        by_output, by_target: The gradients.
    """

    def __init__(
        self,
        terms: Terms,
        ones: Tensor,
        scaled: bool,
        contents: list[Tensor],
        grams: Sequence[Tensor],
        by_output: bool,
        by_target: bool,
    ) -> None:
        self._terms, self._ones, self._scaled = terms, ones, scaled
        self._contents: dict[str, Tensor] = dict(zip(terms.content.layers, contents, strict=True))
        contents.clear()
        self._grams = dict(zip(terms.style.layers, grams, strict=True))
        self._values: dict[tuple[str, str], Tensor] = {}
        self._wants_output, self._wants_target = by_output, by_target
        self.by_output, self.by_target = (LayerGradients(ones, scaled) for _ in range(2))

    def values(self) -> list[Tensor]:
        """The unweighted value (n) of each layer, content before style."""
        terms = self._terms
        content = [self._values["content", layer] for layer in terms.content.layers]
        return content + [self._values["style", layer] for layer in terms.style.layers]

    def meet(self, layer: str, x: Tensor) -> bool:  # (n, C, H, W)
        """A `Tap`: takes a map in, and has no more use for it."""
        gradient = bound = scale = slopes = None
        target = self._contents.pop(layer, None)
        if layer in self._grams:
            slopes = self._meet_gram(layer, x)
        if self._scaled and (self._wants_output or self._wants_target):
            bound, scale = self._bound(layer, x, target, slopes)
        if target is not None:
            gradient = self._meet_content(layer, x, target.to(x.dtype), scale, bound)
            del target
        if slopes is not None and self._wants_output:
            (by_style,) = operators.style_loss_backward(self._ones if scale is None else scale, [x], [slopes])
            gradient = by_style if gradient is None else by_style.add_(gradient)
        if gradient is not None and self._wants_output:
            self.by_output.put(layer, gradient, scale, bound)
        return False

    def _meet_gram(self, layer: str, x: Tensor) -> Tensor:  # (n, C, H, W) -> (n, C, C)
        """The style value, and the slope of the loss by the map's Gram."""
        part = self._terms.style
        _, values, (slopes,) = operators.style_loss(
            [x], [self._grams[layer].to(self._ones.dtype)], [_weight(part, layer)], self._terms.gram_normalize,
            part.distance, part.parameter,
        )  # fmt: skip
        self._values["style", layer] = values[0]
        return slopes

    def _meet_content(
        self, layer: str, x: Tensor, target: Tensor, scale: Tensor | None, bound: Tensor | None
    ) -> Tensor | None:  # (n, C, H, W), (n or 1, C, H, W), (n), (n) -> (n, C, H, W)
        """The content value, and its gradient in the same pass where one is wanted."""
        part = self._terms.content
        arguments = ([x], [target], [_weight(part, layer)], part.distance, part.parameter)
        if not self._wants_output and not self._wants_target:
            self._values["content", layer] = operators.feature_loss(*arguments)[1][0]
            return None
        _, values, (gradient,) = operators.feature_loss_with_gradient(*arguments, scale)
        self._values["content", layer] = values[0]
        if self._wants_target:  # a distance depends on x - y alone
            self.by_target.put(layer, -gradient, scale, bound)
        return gradient

    def _bound(
        self, layer: str, x: Tensor, target: Tensor | None, slopes: Tensor | None
    ) -> tuple[Tensor, Tensor]:  # (n), (n)
        """At least the largest magnitude of the layer's gradient, and a scale for it."""
        largest = _largest(x)
        bound = torch.zeros_like(self._ones)
        if slopes is not None:
            bound = slopes.abs().sum(2).amax(1) * largest
        if target is not None:
            part = self._terms.content
            share = abs(_weight(part, layer)) * (1.0 if part.distance == "sse" else 1 / x[0].numel())
            if part.distance in ("mse", "sse"):
                bound = bound + 2 * share * (largest + _largest(target))
            else:
                bound = bound + share * (part.parameter if part.distance == "huber" else 1.0)
        scale = GradientScale(self._ones)
        scale.choose([bound], 1.0, 1.0, first=True)
        return bound, scale.current


def _weight(part: Part, layer: str) -> float:
    return part.weights[part.layers.index(layer)]


def _largest(x: Tensor) -> Tensor:  # (n, C, H, W) -> (n) fp32
    return torch.linalg.vector_norm(x, torch.inf, dim=(1, 2, 3), dtype=torch.float32)
