"""A loss whose targets are given with each call, or once and kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks as checks
from .. import ops
from .._settings import Converted
from ..engine.batching import check_partner, chunks, target_pass
from ..engine.input_size import InputSize
from ..engine.perceptual_op import trunk_styles
from ..engine.style_layout import plain_style, style_over_frames
from ..engine.trunk import Trunk
from ..engine.unit_map import EPS as UNIT_EPS
from ..names import FeatureNormalization, GramNormalization, GramSpan, ResizeMode, StyleStatistics
from ..reference import unit_features
from .arguments import LayerWeights, normalized_shares
from .base import FrozenLoss
from .mask import checked_regions
from .samples import Samples, as_batch, count_of, each_frame, first_of, frames_first, of_samples, pairs_of


class LossWithTargets(FrozenLoss):
    """Content features and style Grams, of the images of a call or of those given before.

    Drop-ins use `target_grams` beside what they use of a `FrozenLoss`.

    Attributes:
        content_layers, style_layers: Names of the layers of each part; empty where there is none.
        gram_normalize: As of `gram_matrix`.
        gram_over, style_statistics, normalize_features, input_size, resize_mode: See `PerceptualLoss`.
    """

    content_layers: Converted[tuple[str, ...], LayerWeights | None]
    style_layers: Converted[tuple[str, ...], LayerWeights | None]
    gram_normalize: GramNormalization
    gram_over: GramSpan
    style_statistics: StyleStatistics
    normalize_features: FeatureNormalization
    input_size: Converted[tuple[int, int] | None, int | Sequence[int] | None]
    resize_mode: ResizeMode
    _content_shape: torch.Size
    _shares: tuple[float, ...] = (1.0,)  # of the kept regions

    @property
    def _network_size(self) -> tuple[int, int] | None:
        return self.input_size

    def set_content(self, images: Tensor) -> None:
        """Keeps the content target of `images` (N or 1, 3, H, W) for calls that give none.

        For clips it is that of clips (N or 1, 3, T, H, W). A single one is repeated for the clips of a call, features
        and all.
        """
        if not self.content_layers:
            raise ValueError(
                "images: expected none, since this loss has no content part; give content_layers and content_weight "
                "when it is made"
            )
        if self.input_size and self.resize_mode == "random_crop":
            raise ValueError(
                "images: expected a target with each call, since a kept one would be of another crop than the output"
            )
        images = self.checked_images("images", images, self.content_layers, clips=True)
        with target_pass(images.device):
            features = of_samples(self._content_features, [images], [], self.is_clip(images), each_frame)
            # A new dict, so that a copy of the module and a forward in another thread keep theirs.
            self._kept = {**self._kept, "content": [x.to(checks.accumulator_dtype(x)) for x in features]}
        self._content_shape = images.shape

    def set_style(
        self,
        images: Tensor | Sequence[Tensor],
        weights: Sequence[float] | None = None,
        *,
        masks: Sequence[Tensor] | None = None,
    ) -> None:
        """Keeps the style target for calls that give none.

        Args:
            images: (1, 3, H, W) for every sample, or (N, 3, H, W) with one each; for clips such an image is the style
                of every frame, and the frames of a clip (N or 1, 3, T, H, W) are one each; for gram_over="clip" both
                are one style. A list of such blends them: the target Gram is the weighted mean of theirs, as are
                target means and deviations. Sizes may differ from the output's and from each other's.
            weights: One number for each of the list, not negative; normalised to sum 1. Default: equal.
            masks: Instead of a blend each of the list is the style of a region of the output: one mask for each,
                (1, 1, H, W) in [0, 1], floating point or bool, of any size, so that they serve every size of the
                output, to which they come by area averages. The style part is then the weighted mean over the regions
                of the distances of guided Grams, as with `mask` of a call (see `forward`), which the masks are
                multiplied by where both are given. They may overlap, and need not cover the output; one that is empty
                at a layer adds nothing there.
        """
        if masks is not None and self.style_statistics != "gram":
            raise ValueError(
                'masks: expected None for a style of means and deviations; set style_statistics="gram", which is '
                f"{self.style_statistics!r}, first"
            )
        with target_pass(self.device):
            grams, shares = self._style_grams("images", images, weights, as_regions=masks is not None)
            regions = [] if masks is None else checked_regions(masks, len(shares), self.device)
            self._kept = {**self._kept, "style": grams, "regions": regions}
            self._shares = tuple(shares) if regions else (1.0,)

    def target_grams(
        self,
        images: Tensor,
        layers: Sequence[str],
        gram_normalize: GramNormalization,
        is_unit: bool = False,
        input_size: InputSize | None = None,
        style_statistics: StyleStatistics = "gram",
    ) -> list[Tensor]:
        """Grams of targets through which no gradient flows; of those in tiles no map is held whole.

        Args:
            images: (N, 3, H, W), checked; or clips (N, 3, T, H, W), whose Grams are over all of their frames.
            layers: Whose Grams are wanted.
            gram_normalize: As of `gram_matrix`.
            is_unit: Whether the channels of each pixel are divided by their length first.
            input_size: As of `trunk_input`.
            style_statistics: As of `PerceptualLoss`: what is wanted in place of Grams, or below them.

        Returns:
            Each (N, C, C), fp32 (fp64 for a network in fp64); (N, 2, C) for "mean_std", (N, C + 2, C) for "both".
        """
        with ops.grad_mode(False):
            if self.runs_lean(images=images) and isinstance(self._trunk, Trunk):
                trunk_input = self.trunk_input(images, input_size)
                if self.is_clip(images) or trunk_input.tile_side_of_chain(images):
                    return trunk_styles(images, trunk_input, layers, gram_normalize, is_unit, style_statistics)
            if self.is_clip(images):
                settings = gram_normalize, is_unit, input_size, style_statistics
                return self._grams_by_frames(images, layers, *settings)
            maps = self.target_features(images, layers, input_size)
            if is_unit:
                maps = [unit_features(x, UNIT_EPS, False) for x in maps]
            return [plain_style(x, gram_normalize, style_statistics, self.backend) for x in maps]

    def _grams_by_frames(
        self,
        clips: Tensor,
        layers: Sequence[str],
        gram_normalize: GramNormalization,
        is_unit: bool,
        input_size: InputSize | None,
        style_statistics: StyleStatistics,
    ) -> list[Tensor]:
        """`target_grams` of clips (N, 3, T, H, W), a chunk of frames at a time."""
        batch, length = clips.shape[0], clips.shape[2]
        frames = as_batch(frames_first(clips), batch, length)
        is_lean = self.runs_lean(images=frames)
        size = self.trunk_input(frames, input_size).samples_at_a_time(frames) if is_lean else self._graph_chunk
        parts = [
            self.target_grams(frames[rows], layers, gram_normalize, is_unit, input_size, style_statistics)
            for rows in chunks(frames.shape[0], size)
        ]
        of_frames = [torch.cat(grams).unflatten(0, (batch, length)) for grams in zip(*parts, strict=True)]
        return [style_over_frames(styles, gram_normalize, style_statistics) for styles in of_frames]

    def kept_targets(self) -> dict[str, list[Tensor]]:
        """What was kept of "content", each (N or 1, C, H', W'), and "style", each (N or 1, C, C); of clips with T.

        And the masks of "regions" of style.
        """
        return {part: self._kept[part] for part in ("content", "style", "regions") if part in self._kept}

    def _size_of_call(self, images: Tensor) -> InputSize:
        """The size in which images, and those beside them, enter the network; a random crop is drawn."""
        if self.input_size is None:
            return InputSize.of_images()
        if self.is_clip(images):
            images = images[:, :, 0]  # a frame
        if images.dim() != 4:
            raise ValueError(f"input_size: expected None for clips, which are not resized; got {self.input_size}")
        return InputSize(*self.input_size, self.resize_mode).drawn(images)

    def _forget_targets(self) -> None:
        for part in ("content", "style"):
            self._forget_target(part)

    def _forget_target(self, part: str) -> None:
        """A kept target is of the layers, and the Grams of the normalisation, that it was made with.

        Regions go with the style that is given next.
        """
        self._kept = {name: tensors for name, tensors in self._kept.items() if name != part}

    def _content_targets(self, output: Samples, target: object) -> tuple[Samples | None, list[Tensor]]:
        """Content images (N or 1, 3, H, W), or None and the kept features, each (N or 1, C, H', W').

        Of clips (N or 1, 3, T, H, W) and (N or 1, T, C, H', W').
        """
        if not self.content_layers:
            if target is not None:
                raise ValueError("target: expected None, since this loss has no content part; a style image is `style`")
            return None, []
        if target is None:
            if "content" not in self._kept:
                raise ValueError("target: expected content images, got None; pass them or call set_content once before")
            for x in [output] if isinstance(output, Tensor) else output:
                shape = (count_of(output), *x.shape[1:])
                check_partner("output", shape, self._content_shape, "the images of set_content")
            return None, self._kept["content"]
        checked = self.checked_samples("target", target, self.content_layers)
        for name, x, y in pairs_of("target", output, checked):
            check_partner(name, x.shape, y.shape, "output")
        return checked, []

    def _style_targets(self, output: Samples, style: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
        """The target Grams of every sample, each (N or 1, C, C); of clips by frame (N or 1, T or 1, C, C)."""
        if not self.style_layers:
            if style is not None:
                raise ValueError(
                    "style: expected None, since this loss has no style part; give style_layers when it is made"
                )
            return []
        if style is not None:
            with ops.grad_mode(False):
                grams, _ = self._style_grams("style", style, None)
        elif "style" in self._kept:
            grams = self._kept["style"]
        else:
            raise ValueError("style: expected style images, got None; pass them or call set_style once before")
        count = count_of(output)
        if grams[0].shape[0] not in (1, count):
            raise ValueError(
                f"style: expected one style, or one for each of the {count} images of output; got {grams[0].shape[0]}"
            )
        if self.is_clip(first_of(output)) and self.gram_over == "frame":
            return self._grams_of_frames(output, grams)
        if grams[0].dim() != 3:
            raise ValueError(f"style: expected images, as output is, got a clip of {grams[0].shape[1]} frames")
        return grams

    def _grams_of_frames(self, output: Samples, grams: list[Tensor]) -> list[Tensor]:
        """Those of a clip's frames, (N or 1, T or 1, C, C), by Grams that may be of images."""
        if grams[0].dim() == 3:
            return [gram.unsqueeze(1) for gram in grams]
        for x in [output] if isinstance(output, Tensor) else output:
            if grams[0].shape[1] != x.shape[2]:
                raise ValueError(
                    f"style: expected an image, or a clip of the {x.shape[2]} frames of output, got one of "
                    f"{grams[0].shape[1]}"
                )
        return grams

    def _regions(self, style: object) -> tuple[list[Tensor], tuple[float, ...]]:
        """The masks (1, 1, H, W) of the regions that the style of a call is compared in, and their shares."""
        regions = self._kept.get("regions", []) if style is None and self.style_layers else []
        wide = torch.float64 if self.network_dtype() == torch.float64 else torch.float32
        return [region.to(wide) for region in regions], self._shares if regions else (1.0,)

    def _style_grams(
        self,
        name: str,
        images: Tensor | Sequence[Tensor],
        weights: Sequence[float] | None,
        as_regions: bool = False,
    ) -> tuple[list[Tensor], list[float]]:
        """The blended Grams of style images, each (N or 1, C, C), or of clips by frame, (N or 1, T, C, C), and their
        shares.

        As regions those of each style, one after the other.
        """
        if not self.style_layers:
            raise ValueError(
                f"{name}: expected none, since this loss has no style part; give style_layers and style_weight when "
                "it is made"
            )
        if not isinstance(images, (Tensor, list, tuple)):
            raise TypeError(f"{name}: expected a tensor of images or a list of them, got {type(images).__name__}")
        styles = [images] if isinstance(images, Tensor) else list(images)
        if not styles:
            raise ValueError(f"{name}: expected at least one style, got an empty list")
        shares = normalized_shares(weights, len(styles))
        # No generator with a default, which torch.compile cannot trace.
        batch = max([style.shape[0] if isinstance(style, Tensor) and style.dim() else 0 for style in styles])
        found: list[list[Tensor]] = []
        for i, (share, style) in enumerate(zip(shares, styles, strict=True)):
            argument = name if len(styles) == 1 else f"{name}[{i}]"
            style = self.checked_images(argument, style, self.style_layers, clips=True)
            checks.refuse_gradient(argument, style)
            if style.shape[0] not in (1, batch):
                raise ValueError(
                    f"{argument}: expected a batch of 1 or {batch} to blend with the others, got {style.shape[0]}"
                )
            by_frame = self.is_clip(style) and self.gram_over == "frame"
            grams = of_samples(self._grams, [style], [], by_frame, each_frame)
            if found and found[0][0].shape[1:] != grams[0].shape[1:]:
                raise ValueError(
                    f"{argument}: expected images, or clips of one length, to blend with the others; got "
                    f"{tuple(style.shape)}"
                )
            if as_regions:
                grams = [gram.expand(batch, *gram.shape[1:]) for gram in grams]
            elif found:
                grams = [a + share * b for a, b in zip(found.pop(), grams, strict=True)]
            else:
                grams = [share * gram for gram in grams]
            found.append(grams)
        return [gram for grams in found for gram in grams], shares

    def _content_features(self, images: list[Tensor], _beside: list[Tensor]) -> list[Tensor]:
        """An `OfImages` of targets."""
        return self.target_features(images[0], self.content_layers, self._size_of_call(images[0]))

    def _grams(self, images: list[Tensor], _beside: list[Tensor]) -> list[Tensor]:
        """An `OfImages` of style images, or of clips for Grams over all frames: the Grams of each, not blended."""
        is_unit, size = self.normalize_features == "channel", self._size_of_call(images[0])
        settings = self.gram_normalize, is_unit, size, self.style_statistics
        return self.target_grams(images[0], self.style_layers, *settings)
