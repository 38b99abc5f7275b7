"""A perceptual loss of clips whose style is of all frames at once, in the memory of one chunk of frames.

Content and variation are means over frames. Style compares sums over all pixels of all frames. As with the tiles of an
image (tiled_loss.py), a first pass accumulates the Grams of all chunks of frames, a second computes gradients. Clips
that fit in a chunk need one pass; several are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .batching import chunks, rows_of
from .custom_op import TrunkInput, joined
from .frames import clips_of, for_clips, frames_of
from .masks import ALL_PIXELS, Masks
from .perceptual_chunk import PerceptualChunk
from .perceptual_head import summed
from .style_sums import StyleSums
from .styles import slopes_of_frames
from .terms import NO_PART, Terms
from .tile_parts import tiles_through
from .tiled_loss import TiledLoss


def clip_losses(
    trunk_input: TrunkInput,
    terms: Terms,
    images: tuple[Tensor, Tensor | None],
    contents: Sequence[Tensor],
    grams: Sequence[Tensor],
    gradients: tuple[Tensor, Tensor],
    masks: Masks,
) -> tuple[Tensor, Tensor]:
    """The loss (N) and its terms (K, N).

    Args:
        trunk_input, terms: Of the call.
        images: Output (N, 3, T, H, W) and target (N or 1, 3, T, H, W).
        contents: (N or 1, T, C, H', W') of each content layer, in place of the target.
        grams: (N or 1, R, C) of each style layer, see style_layout.py.
        gradients: With respect to both; filled in place, empty where they are not wanted.
        masks: Of the frames, (N * T or 1, 1, H, W).
    """
    output, target = images
    frames = frames_of(output[:1], 1)
    side, length = trunk_input.tile_side(frames), frames.shape[0]
    at_once = 0 if side else trunk_input.samples_at_a_time(frames) // length
    of_clips = []
    if side:
        for gradient in gradients:
            gradient.zero_()
    for rows in chunks(output.shape[0], max(at_once, 1)):
        count, first = output[rows].shape[0], rows.start * length
        by_output, by_target = (gradient[rows] if gradient.numel() else None for gradient in gradients)
        clips = _Clips(
            trunk_input, terms.of_frames(length), length, frames_of(output[rows], count),
            None if target is None else frames_of(rows_of([target], rows)[0], count),
            [for_clips(x, count) for x in rows_of(contents, rows)], rows_of(grams, rows),
            by_output, by_target, masks.rows(slice(first, first + count * length)),
        )  # fmt: skip
        of_clips.append(summed(clips.at_once() if at_once else clips.in_parts(side), terms))
    losses, values = zip(*of_clips, strict=True)
    return joined(list(losses)), joined(list(values), dim=1)


def clip_styles(
    clip: Tensor,  # (1, 3, T, H, W)
    trunk_input: TrunkInput,
    layers: Sequence[str],
    normalize: str,
    is_unit: bool,
    style_statistics: str,
) -> list[Tensor]:
    """The styles (1, R, C) of a clip over all frames, see `Terms`."""
    frames = frames_of(clip, 1)
    sums = _sums(frames, trunk_input, layers, trunk_input.tile_side(frames), is_unit, style_statistics)
    return [sums.of(layer, normalize).to(trunk_input.wide) for layer in layers]


def _sums(
    frames: Tensor,  # (T, 3, H, W)
    trunk_input: TrunkInput,
    layers: Sequence[str],
    side: int | None,
    is_unit: bool,
    style_statistics: str,
    masks: Masks = ALL_PIXELS,
) -> StyleSums:
    sums = StyleSums(layers, is_unit, style_statistics, of_clip=True)
    for rows in trunk_input.chunks(frames):
        own = masks.rows(rows)
        if not side:
            sums.add(trunk_input, frames[rows], masks=own)
            continue
        for tile in tiles_through(trunk_input.trunk_key, layers, frames.shape, side):
            sums.add(trunk_input, frames[rows][tile.image], tile, own.in_tile(tile))
    return sums


@dataclass(frozen=True)
class _Clips:
    """A chunk of clips, or one that is larger than a chunk.

    Attributes:
        terms: Those of each frame, see `Terms.of_frames`.
        length: How many frames a clip has.
        by_output, by_target: Gradient buffers, written or accumulated by tiles; None where not wanted.
        masks: Of the frames.
    """

    trunk_input: TrunkInput
    terms: Terms
    length: int
    output: Tensor  # (n * T, 3, H, W)
    target: Tensor | None  # (n * T, 3, H, W)
    contents: list[Tensor]  # (n * T, C, H', W'), in place of the target
    grams: list[Tensor]  # (n or 1, R, C)
    by_output: Tensor | None  # (n, 3, T, H, W)
    by_target: Tensor | None  # (n, 3, T, H, W)
    masks: Masks

    def at_once(self) -> dict[str, Tensor]:
        """The terms by name, each (n), in one pass."""
        wanted = self.by_output is not None, self.by_target is not None
        chunk = PerceptualChunk(self.trunk_input, self.terms, self.output, self.target, *wanted, frames=self.length)
        terms, *made = chunk.run(self.contents, self.grams, self.masks)
        _write(made, (self.by_output, self.by_target))
        return self._of_clips(terms)

    def in_parts(self, side: int | None) -> dict[str, Tensor]:
        """The terms by name, each (1), of one clip, a chunk of frames at a time.

        Args:
            side: Of the tiles in which each chunk goes; None: whole.
        """
        trunk_input, terms = self.trunk_input, self.terms
        settings = terms.is_of_unit_features, terms.style_statistics
        sums = _sums(self.output, trunk_input, terms.style.layers, side, *settings, self.masks)
        style, slopes = sums.values(terms, self.grams, trunk_input.wide)
        parts = [self._part(rows, side, slopes) for rows in trunk_input.chunks(self.output)]
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return {name: value.to(trunk_input.wide) for name, value in {**self._of_clips(found), **style}.items()}

    def _part(self, rows: slice, side: int | None, slopes: dict[str, Tensor]) -> dict[str, Tensor]:
        """Content and variation of some frames, each (t); writes the gradients of all terms with respect to them."""
        output, contents = self.output[rows], [x[rows] for x in self.contents]
        target = None if self.target is None else self.target[rows]
        gradients = [clip if clip is None else clip[:, :, rows] for clip in (self.by_output, self.by_target)]
        wants_output, wants_target = (clip is not None for clip in gradients)
        slopes = {layer: slopes_of_frames(x, output.shape[0]) for layer, x in slopes.items()} if wants_output else {}
        if side:
            by_output, by_target = (clip if clip is None else frames_of(clip, 1) for clip in gradients)
            tiled = TiledLoss(
                self.trunk_input, self.terms, side, output, target, contents, [], by_output, by_target, slopes
            )
            tiled.masks = self.masks.rows(rows)
            return tiled.run()
        terms = self.terms if slopes else replace(self.terms, style=NO_PART)
        chunk = PerceptualChunk(self.trunk_input, terms, output, target, wants_output, wants_target, slopes=slopes)
        found, *made = chunk.run(contents, [], self.masks.rows(rows))
        _write(made, gradients)
        return found

    def _of_clips(self, of_frames: dict[str, Tensor]) -> dict[str, Tensor]:
        """Content and variation (n * T) of frames as those of clips; style is of clips (n)."""
        of_clips = {}
        for name, value in of_frames.items():
            if not name.startswith("style"):
                value = value.unflatten(0, (-1, self.length)).sum(1)
            of_clips[name] = value / self.length if name.startswith("content/") else value
        return of_clips


def _write(made: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> None:
    """Writes gradients (n * T, 3, H, W) of frames into those of clips (n, 3, T, H, W)."""
    for of_frames, gradient in zip(made, gradients, strict=True):
        if of_frames is not None and gradient is not None:
            gradient.copy_(clips_of(of_frames, gradient.shape[2]))
