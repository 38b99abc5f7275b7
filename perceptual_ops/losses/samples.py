"""How the samples of a call reach a network of images: a clip as its frames, whose values become the clip's again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .. import _checks as checks

# M images, with what is beside them: images (M or 1, C, H, W) and kept targets (M or 1, ...) -> values, each (M, ...).
OfImages = Callable[[list[Tensor], list[Tensor]], list[Tensor]]


def of_samples(
    of_images: OfImages,
    images: Sequence[Tensor],
    beside: Sequence[Tensor],
    is_clip: bool,
    join: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """The values of each sample, each (N, ...).

    Args:
        of_images: The loss.
        images: The output (N, C, H, W), and those that it is compared with (N or 1, C, H, W); of clips
            (N, C, T, H, W).
        beside: What is kept for each sample, (N or 1, ...); of clips for each frame, (N or 1, T or 1, ...).
        is_clip: Whether samples are clips, whose frames `of_images` takes as images.
        join: What becomes of the values (N, T, ...) of a clip's frames.
    """
    if not is_clip:
        return of_images(list(images), list(beside))
    clips = [frames_first(x) for x in images]
    batch, frames = clips[0].shape[:2]
    values = of_images([as_batch(x, batch, frames) for x in clips], [as_batch(x, batch, frames) for x in beside])
    return [join(value.unflatten(0, (batch, frames))) for value in values]


def frames_first(clip: Tensor) -> Tensor:  # (N, C, T, H, W) -> (N, T, C, H, W)
    return clip.transpose(1, 2)


def as_batch(x: Tensor, batch: int, frames: int) -> Tensor:  # (N or 1, T or 1, ...) -> (N * T or 1, ...)
    """Frames as samples: a view of a clip alone and of clips whose frames lie one behind the other, else a copy."""
    if x.shape[0] == 1 and x.shape[1] == 1:
        return x[0]  # stands for every frame
    return x.expand(batch, frames, *x.shape[2:]).flatten(0, 1)


def mean_over_frames(values: Tensor) -> Tensor:  # (N, T) -> (N)
    return values.mean(1)


def each_frame(values: Tensor) -> Tensor:  # (N, T)
    return values


def maps_of_frames(maps: Tensor) -> Tensor:  # (N, T, 1, H, W) -> (N, 1, T, H, W)
    return maps.transpose(1, 2)


def join_of(frames: object, is_clip: bool, reduction: str) -> Callable[[Tensor], Tensor]:
    """What becomes of the values of a clip's frames, by a call's argument `frames`."""
    if not checks.check_flag("frames", frames):
        return mean_over_frames
    if not is_clip:
        raise ValueError(
            "frames: expected False, since output is no clip (N, C, T, H, W) for a network of images; got True"
        )
    if reduction != "none":
        raise ValueError(f'frames: expected False for reduction={reduction!r}, got True; set reduction="none"')
    return each_frame
