"""Values and feature gradients of one chunk, layer by layer as the trunk computes the maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from .batching import launches_cost
from .distances import ContentDistance, Values, content_distance, largest
from .loss_scale import LossScale, scale_of
from .masks import ALL_PIXELS, Masks
from .styles import style_of
from .terms import Terms
from .unit_map import UnitMap

AT_ONCE = 64 * 2**20  # bytes of maps batched into one launch: the extra memory is at most that


class LayerGradients:
    """`TapGradients` that exist already or are computed on request; each is handed out once.

    Attributes:
        scale: The loss scale of the trunk's backward; None while no map is fp16. A trunk that passes through fp16
            between its maps sets one.
    """

    def __init__(self) -> None:
        self.scale: LossScale | None = None
        self._made: dict[str, tuple[Tensor, Tensor | None, Tensor | None]] = {}
        self._to_make: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {}

    def note(self, dtype: torch.dtype) -> None:
        """Records the dtype of a map."""
        if dtype == torch.float16 and self.scale is None:
            self.scale = LossScale()

    def put(self, layer: str, gradient: Tensor, scale: Tensor | None, bound: Tensor | None) -> None:
        """A gradient (n, C, H, W) times scale (n), and a bound (n) of its unscaled magnitude; None: unscaled."""
        self.note(gradient.dtype)
        self._made[layer] = gradient, scale, bound

    def put_later(self, layer: str, make: Callable[[Tensor], Tensor], bound: Tensor) -> None:
        """An fp16 gradient that is computed once the backward knows its scale (n); the bound is that of `put`."""
        self.note(torch.float16)
        self._to_make[layer] = make, bound

    def __contains__(self, layer: str) -> bool:
        return layer in self._made or layer in self._to_make

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        if layer in self._to_make and scale is not None:
            return self._to_make.pop(layer)[0](scale)
        gradient, made_with, _ = self._made.pop(layer)
        if scale is not None and scale is not made_with:
            gradient.mul_((scale if made_with is None else scale / made_with).view(-1, 1, 1, 1))
        return gradient

    def bound(self, layer: str) -> Tensor:
        if layer in self._to_make:
            return self._to_make[layer][1]
        gradient, _, bound = self._made[layer]
        return largest(gradient) if bound is None else bound


class PerceptualHead:
    """The loss of one chunk, map by map during the forward, and its `TapGradients` with respect to the output's maps.

    A content gradient is computed together with its value, in one pass over map and target; the target is then freed. A
    style gradient needs its map and a C x C matrix. Those maps live until the backward anyway, so the values and
    matrices of all layers are computed in one launch after the last. The gradient itself is computed when the backward
    reaches it: earlier, it would take the same memory but be freed out of order, and glibc's aligned allocator (before
    2.38) does not reuse such holes, so the process would grow with every call. Where launches dominate, as on a GPU,
    those of small maps are computed in one launch.

    Args:
        terms: The terms of the loss.
        wide: The accumulation dtype.
        contents: Targets of the content layers, (n or 1, C, H, W). Ownership is taken: a target is dropped once it has
            been compared.
        grams: Targets of the style layers, (n or 1, R, C), see style_layout.py, region by region; none if
            slopes are given.
        by_output, by_target: Whether gradients with respect to the output's and the target's maps are wanted.
        slopes: d loss / d Gram of the style layers (`style_parts.Measured`), where the Grams are of more than these
            maps: style then has a gradient here and no value.
        frames: How many consecutive samples are the frames of one clip, whose Gram is over all of them.
        masks: Of the chunk's images.

    Attributes:
        scale: Of the output's gradients.
        by_target: The gradients with respect to the target's maps.
    """

    def __init__(
        self,
        terms: Terms,
        wide: torch.dtype,
        contents: list[Tensor],
        grams: Sequence[Tensor],
        by_output: bool,
        by_target: bool,
        slopes: Mapping[str, Tensor] | None = None,
        frames: int = 1,
        masks: Masks = ALL_PIXELS,
    ) -> None:
        self._terms, self._wide, self._mask = terms, wide, masks.content
        self._style = style_of(terms, masks, frames)
        self._contents: dict[str, Tensor] = dict(zip(terms.content.layers, contents, strict=True))
        contents.clear()
        self._grams = {} if slopes is not None else terms.by_layer(grams)
        self._values: dict[str, Tensor] = {}  # (n), unweighted, by their names among the terms
        self._losses: dict[str, list[Tensor]] = {"content": [], "style": []}  # (n), weighted
        self._wants_output, self._wants_target = by_output, by_target
        self._by_output = LayerGradients()
        self.by_target: LayerGradients = LayerGradients()
        self._styled: dict[str, Tensor] = {}  # maps (n, C, H, W) kept for their style gradient
        self._slopes: dict[str, Tensor] = dict(slopes or {})  # d loss / d Gram, (n, C, C)
        self._has_style_values = slopes is None
        self._style_bounds: dict[str, Tensor] = {}  # (n)

    @property
    def scale(self) -> LossScale | None:
        return self._by_output.scale

    @scale.setter
    def scale(self, scale: LossScale | None) -> None:
        self._by_output.scale = scale

    def take_slopes(self, slopes: Mapping[str, Tensor]) -> None:
        """Sets slopes that were unknown during the forward; the maps have been kept."""
        self._slopes |= slopes

    def terms(self) -> dict[str, Tensor]:
        """Content and style of `Terms.names`, each (n), of style (n / frames). Call it once, after the forward."""
        parts = [("content", self._terms.content.layers)]
        if self._has_style_values:
            self._slopes |= self._compare_grams(self._styled)
            parts.append(("style", self._terms.style.layers))
        by_name = {}
        for part, layers in parts:
            if layers:
                by_name[part] = total(self._losses[part])
                by_name |= {name: self._values[name] for name in (f"{part}/{layer}" for layer in layers)}
        return by_name

    def on_tap(self, layer: str, x: Tensor) -> bool:  # (n, C, H, W)
        """A `Tap`: compares a map, and keeps it if its style gradient is to follow."""
        if self._terms.is_of_unit_features:
            self._compare_unit(layer, x)
            return False
        if layer in self._contents:
            self._compare_content(layer, x, self._contents.pop(layer).to(x.dtype))
        if layer in self._terms.style.layers:
            self._by_output.note(x.dtype)
            if self._wants_output:
                self._styled[layer] = x
            else:
                self._compare_grams({layer: x})
        return layer in self._styled

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        if layer in self._styled:
            self._add_style_gradient(layer, scale)
        return self._by_output.gradient(layer, scale)

    def bound(self, layer: str) -> Tensor:
        bounds = [self._by_output.bound(layer)] if layer in self._by_output else []
        if layer in self._styled:
            self._style_bounds = self._style_bounds or self._bound_styles()
            bounds.append(self._style_bounds[layer])
        return total(bounds)

    def _bound_styles(self) -> dict[str, Tensor]:  # (n)
        """Bounds of all style gradients in few launches: the largest row sum of slopes times the largest feature."""
        by_layer = {layer: self._style.magnitude(slopes) for layer, slopes in self._slopes.items()}
        widest = max(by_layer.values(), key=lambda slopes: slopes.shape[1])
        rows = widest.new_zeros((len(self._styled), *widest.shape[:2]), dtype=torch.float32)
        values = rows.new_empty(rows.shape[:2])
        for layer, row, value in zip(self._styled, rows, values, strict=True):
            slopes = by_layer[layer]
            torch.linalg.vector_norm(slopes, 1, dim=2, out=row[:, : slopes.shape[1]])
            torch.linalg.vector_norm(self._styled[layer], torch.inf, (1, 2, 3), dtype=torch.float32, out=value)
        bounds = dict(zip(self._styled, rows.amax(2).mul_(values), strict=True))
        for layer, bound in bounds.items():
            offset = self._style.offset(self._slopes[layer])
            if offset is not None:
                bound.add_(offset)
        return bounds

    def _add_style_gradient(self, layer: str, scale: Tensor | None) -> None:
        """The style gradient of one layer, or of all layers of its dtype where batching pays; a scale is per layer.

        The content gradient, already at that scale, is added in the same pass, with one rounding.
        """
        x, layers = self._styled[layer], [layer]
        if scale is None and launches_cost(x.device) and sum(map.nbytes for map in self._styled.values()) <= AT_ONCE:
            layers = [other for other, map in self._styled.items() if map.dtype == x.dtype]
        maps, slopes = ({layer: kept.pop(layer) for layer in layers} for kept in (self._styled, self._slopes))
        made = self._by_output
        contents = [made.gradient(layer, scale) if layer in made else None for layer in layers]
        gradients = self._style.gradients(scale, maps, list(slopes.values()), contents)
        for layer, gradient in zip(layers, gradients, strict=True):
            made.put(layer, gradient, scale, None)

    def _compare_grams(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:  # of (n, C, H, W)
        """The style values of maps, and the slopes (n, C, C) of the loss with respect to their Grams."""
        slopes: dict[str, Tensor] = {}
        for dtype in dict.fromkeys(x.dtype for x in maps.values()):  # a module's may differ
            own = {layer: x for layer, x in maps.items() if x.dtype == dtype}
            targets = {layer: [gram.to(self._wide) for gram in self._grams[layer]] for layer in own}
            measured = self._style.measured(own, targets)
            self._losses["style"].append(measured.loss)
            self._values |= {f"style/{layer}": value for layer, value in measured.values.items()}
            slopes |= measured.slopes
        return slopes

    def _compare_content(self, layer: str, x: Tensor, target: Tensor) -> None:  # (n, C, H, W), (n or 1, C, H, W)
        """The content value, and the gradients that are wanted."""
        distance = self._content_distance(layer, x)
        if not self._wants_output and not self._wants_target:
            self._note_content(layer, distance.values(x, target))
            return
        bound = scale = None
        if x.dtype == torch.float16:
            bound = distance.bound(x, target)
            scale = scale_of(bound)
        values, *per_side = distance.gradients(x, target, scale, self._wants_output, self._wants_target)
        self._note_content(layer, values)
        for gradients, gradient in zip((self._by_output, self.by_target), per_side, strict=True):
            if gradient is not None:
                gradients.put(layer, gradient, scale, bound)

    def _compare_unit(self, layer: str, x: Tensor) -> None:  # (n, C, H, W)
        """Content and style of features of unit length; gradients are computed at once, in the accumulation dtype."""
        unit, of_output = UnitMap(x), None
        if layer in self._contents:
            target = UnitMap(self._contents.pop(layer).to(x.dtype))
            distance = self._content_distance(layer, x)
            wanted = self._wants_output, self._wants_target
            if any(wanted):
                values, of_output, of_target = distance.gradients(unit.map, target.map, None, *wanted)
                if of_target is not None:
                    self._put_measured(self.by_target, layer, target.input_gradient(of_target), x.dtype)
            else:
                values = distance.values(unit.map, target.map)
            self._note_content(layer, values)
        if layer in self._terms.style.layers:
            if self._has_style_values:
                self._slopes |= self._compare_grams({layer: unit.map})
            if self._wants_output:
                slopes = self._slopes.pop(layer)
                (of_output,) = self._style.gradients(None, {layer: unit.map}, [slopes], [of_output])
        if of_output is not None:
            self._put_measured(self._by_output, layer, unit.input_gradient(of_output), x.dtype)

    def _note_content(self, layer: str, values: Values) -> None:
        weighted, self._values[f"content/{layer}"] = values
        self._losses["content"].append(weighted)

    def _put_measured(self, gradients: LayerGradients, layer: str, gradient: Tensor, dtype: torch.dtype) -> None:
        bound = scale = None
        if dtype == torch.float16:
            bound = largest(gradient)
            scale = scale_of(bound)
            gradient = gradient * scale.view(-1, 1, 1, 1)
        gradients.put(layer, gradient.to(dtype), scale, bound)

    def _content_distance(self, layer: str, x: Tensor) -> ContentDistance:
        part, mask = self._terms.content, None if self._mask is None else self._mask.of(layer, x)
        return content_distance(part.distance, part.parameter, part.weight_of(layer), mask)


def total(values: Sequence[Tensor]) -> Tensor:  # L x (n) -> (n)
    """Their sum, in few launches."""
    return torch.stack(list(values)).sum(0) if len(values) > 2 else reduce(torch.add, values)


def summed(by_name: Mapping[str, Tensor], terms: Terms) -> tuple[Tensor, Tensor]:  # (n), (T, n)
    """The loss of a chunk and its terms in the order of `Terms.names`, from a dict of them."""
    loss = total([by_name[part] for part in ("content", "style", "tv") if part in by_name])
    return loss, torch.stack([by_name[name] for name in terms.names])
