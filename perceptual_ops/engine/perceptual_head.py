"""Values and gradients with respect to the features of one chunk, layer by layer as the trunk makes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .distances import ContentDistance, content_distance, largest
from .loss_scale import LossScale
from .terms import Part, Terms
from .unit_map import UnitMap

operators = torch.ops.perceptual_ops


class LayerGradients:
    """`TapGradients` that were made before, each given out once.

    Args:
        ones: (n), in the accumulation dtype.

    Attributes:
        scale: What the trunk's backward scales them by; None while no map is in fp16. A trunk that passes through fp16
            between its maps gives them one.
    """

    def __init__(self, ones: Tensor) -> None:
        self._ones = ones
        self.scale: LossScale | None = None
        self._made: dict[str, tuple[Tensor, Tensor | None, Tensor | None]] = {}

    def another(self) -> LayerGradients:
        """An empty one of the same samples."""
        return LayerGradients(self._ones)

    def note(self, dtype: torch.dtype) -> None:
        """Takes note of the dtype of a map."""
        if dtype == torch.float16 and self.scale is None:
            self.scale = LossScale(self._ones)

    def put(self, layer: str, gradient: Tensor, scale: Tensor | None, bound: Tensor | None) -> None:
        """A gradient (n, C, H, W) times scale (n), and the bound of its unscaled magnitude (n); None: as it is."""
        self.note(gradient.dtype)
        self._made[layer] = gradient, scale, bound

    def __contains__(self, layer: str) -> bool:
        return layer in self._made

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        gradient, made_with, _ = self._made.pop(layer)
        if scale is not None:
            gradient.mul_((scale if made_with is None else scale / made_with).view(-1, 1, 1, 1))
        return gradient

    def bound(self, layer: str) -> Tensor:
        gradient, _, bound = self._made[layer]
        return largest(gradient) if bound is None else bound


class PerceptualHead:
    """The loss of one chunk, made of each map when the trunk has it, and its `TapGradients` by the output's maps.

    A content gradient is made with its value, in one pass over map and target, so that the target is gone. A style
    gradient needs its map and a matrix of its size in channels, and is made when the backward comes to it: made before,
    it would take the same memory, but be freed out of order, and glibc's aligned allocations (before 2.38) do not find
    their way back into such holes: the process would grow with every call.

    Args:
        terms: What the loss is made of.
        ones: (n), in the accumulation dtype.
        contents: Targets of the content layers, (n or 1, C, H, W). Taken over: a target is dropped when it was met.
        grams: Target Grams of the style layers, (n or 1, C, C).
        by_output, by_target: Whether gradients with respect to the output's and the target's maps are wanted.

    Attributes:
        scale: Of the output's gradients.
        by_target: The gradients with respect to the target's maps.
    """

    def __init__(
        self,
        terms: Terms,
        ones: Tensor,
        contents: list[Tensor],
        grams: Sequence[Tensor],
        by_output: bool,
        by_target: bool,
    ) -> None:
        self._terms, self._ones = terms, ones
        self._contents: dict[str, Tensor] = dict(zip(terms.content.layers, contents, strict=True))
        contents.clear()
        self._grams = dict(zip(terms.style.layers, grams, strict=True))
        self._values: dict[tuple[str, str], Tensor] = {}
        self._wants_output, self._wants_target = by_output, by_target
        self._by_content, self.by_target = (LayerGradients(ones) for _ in range(2))
        self._styled: dict[str, tuple[Tensor, Tensor]] = {}  # maps (n, C, H, W) and slopes by their Grams (n, C, C)

    @property
    def scale(self) -> LossScale | None:
        return self._by_content.scale

    @scale.setter
    def scale(self, scale: LossScale | None) -> None:
        self._by_content.scale = scale

    def values(self) -> list[Tensor]:
        """The unweighted value (n) of each layer, content before style."""
        terms = self._terms
        content = [self._values["content", layer] for layer in terms.content.layers]
        return content + [self._values["style", layer] for layer in terms.style.layers]

    def meet(self, layer: str, x: Tensor) -> bool:  # (n, C, H, W)
        """A `Tap`: takes a map in, and holds on to it where its style gradient is to come."""
        if self._terms.is_of_unit_features:
            self._meet_unit(layer, x)
            return False
        if layer in self._contents:
            self._meet_content(layer, x, self._contents.pop(layer).to(x.dtype))
        if layer in self._grams:
            self._by_content.note(x.dtype)
            slopes = self._meet_gram(layer, x)
            if self._wants_output:
                self._styled[layer] = x, slopes
        return layer in self._styled

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        content = self._by_content.gradient(layer, scale) if layer in self._by_content else None
        if layer not in self._styled:
            assert content is not None, "every tap is of content or style"
            return content
        x, slopes = self._styled.pop(layer)
        (style,) = operators.style_loss_backward(self._ones if scale is None else scale, [x], [slopes])
        return style if content is None else style.add_(content)

    def bound(self, layer: str) -> Tensor:
        bound = self._by_content.bound(layer) if layer in self._by_content else torch.zeros_like(self._ones)
        if layer in self._styled:
            x, slopes = self._styled[layer]
            bound = bound + slopes.abs().sum(2).amax(1) * largest(x)
        return bound

    def _meet_gram(self, layer: str, x: Tensor) -> Tensor:  # (n, C, H, W) -> (n, C, C)
        """The style value, and the slope of the loss with respect to the map's Gram."""
        part = self._terms.style
        _, values, (slopes,) = operators.style_loss(
            [x], [self._grams[layer].to(self._ones.dtype)], [_weight(part, layer)], self._terms.gram_normalize,
            part.distance, part.parameter,
        )  # fmt: skip
        self._values["style", layer] = values[0]
        return slopes

    def _meet_content(self, layer: str, x: Tensor, target: Tensor) -> None:  # (n, C, H, W), (n or 1, C, H, W)
        """The content value, and its gradients where they are wanted."""
        distance = self._content_distance(layer)
        if not self._wants_output and not self._wants_target:
            self._values["content", layer] = distance.value(x, target)
            return
        bound = scale = None
        if x.dtype == torch.float16:
            bound = distance.bound(x, target)
            scale = self._scale_of(bound)
        value, *found = distance.gradients(x, target, scale, self._wants_output, self._wants_target)
        self._values["content", layer] = value
        for gradients, gradient in zip((self._by_content, self.by_target), found, strict=True):
            if gradient is not None:
                gradients.put(layer, gradient, scale, bound)

    def _meet_unit(self, layer: str, x: Tensor) -> None:  # (n, C, H, W)
        """Both parts of features of unit length; their gradients are made at once, in the accumulation dtype."""
        unit, of_output = UnitMap(x), None
        if layer in self._contents:
            target = UnitMap(self._contents.pop(layer).to(x.dtype))
            distance = self._content_distance(layer)
            wanted = self._wants_output, self._wants_target
            if any(wanted):
                value, of_output, of_target = distance.gradients(unit.map, target.map, None, *wanted)
                if of_target is not None:
                    self._put_measured(self.by_target, layer, target.input_gradient(of_target), x.dtype)
            else:
                value = distance.value(unit.map, target.map)
            self._values["content", layer] = value
        if layer in self._grams:
            slopes = self._meet_gram(layer, unit.map)
            if self._wants_output:
                (style,) = operators.style_loss_backward(self._ones, [unit.map], [slopes])
                of_output = style if of_output is None else style.add_(of_output)
        if of_output is not None:
            self._put_measured(self._by_content, layer, unit.input_gradient(of_output), x.dtype)

    def _put_measured(self, gradients: LayerGradients, layer: str, gradient: Tensor, dtype: torch.dtype) -> None:
        bound = scale = None
        if dtype == torch.float16:
            bound = largest(gradient)
            scale = self._scale_of(bound)
            gradient = gradient * scale.view(-1, 1, 1, 1)
        gradients.put(layer, gradient.to(dtype), scale, bound)

    def _scale_of(self, bound: Tensor) -> Tensor:  # (n) -> (n)
        chosen = LossScale(self._ones)
        chosen.choose([bound], 1.0, None, first=True)
        return chosen.current

    def _content_distance(self, layer: str) -> ContentDistance:
        part = self._terms.content
        return content_distance(part.distance, part.parameter, _weight(part, layer))


def _weight(part: Part, layer: str) -> float:
    return part.weights[part.layers.index(layer)]
