"""Clips as their frames, frames as clips."""

from __future__ import annotations

from torch import Tensor


def frames_of(clips: Tensor, count: int) -> Tensor:  # (n or 1, C, T, H, W) -> (count * T, C, H, W)
    """A view of a clip alone, else a copy."""
    frames = clips.transpose(1, 2)
    return for_clips(frames, count)


def for_clips(features: Tensor, count: int) -> Tensor:  # (n or 1, T, ...) -> (count * T, ...)
    """Features of each frame; those of a single clip are repeated."""
    return features.expand(count, *features.shape[1:]).flatten(0, 1)


def clips_of(frames: Tensor, length: int) -> Tensor:  # (n * T, C, H, W) -> (n, C, T, H, W)
    return frames.unflatten(0, (frames.shape[0] // length, length)).transpose(1, 2)


def as_one_map(x: Tensor, length: int) -> Tensor:  # (n * T, C, H, W) -> (n, C, T * H, W)
    """The maps of a clip's frames as one, whose Gram is that over all frames; a view where they are channels_last."""
    return clips_of(x, length).flatten(2, 3) if length > 1 else x


def for_frames(x: Tensor, length: int) -> Tensor:  # (n, ...) -> (n * T, ...)
    """Features of each clip, repeated for each frame."""
    return x.unsqueeze(1).expand(x.shape[0], length, *x.shape[1:]).flatten(0, 1) if length > 1 else x
