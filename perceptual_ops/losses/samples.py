"""How the samples of a call reach a network: clips as their frames, lists by size, those of weight 0 not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from .. import _checks as checks
from .sample_weight import Numbers, SampleWeight

if TYPE_CHECKING:
    from .base import FrozenLoss

# A batch (N, ...), or a list of N batches of 1, whose sizes may differ.
Samples = Tensor | list[Tensor]
# The same as users write it.
Images = Tensor | Sequence[Tensor]


class CallOptions(TypedDict, total=False):
    """What calls take by keyword; see `PerceptualLoss.forward`."""

    frames: bool
    sample_weight: Numbers | None
    mask: Images | None


# M images, with what is beside them: images (M or 1, C, H, W) and kept targets (M or 1, ...) -> values, each (M, ...).
OfImages = Callable[[list[Tensor], list[Tensor]], list[Tensor]]


def values_of(
    loss: FrozenLoss,
    of_images: OfImages,
    images: Sequence[Samples],
    beside: Sequence[Samples],
    frames: bool,
    sample_weight: Numbers | None,
    are_maps: bool = False,
    takes_clips: bool = False,
) -> list[Tensor]:
    """The values of a call's samples, weighted and reduced: (N,), (N, T), or a scalar each.

    Args:
        loss: Whose call it is.
        of_images, images, beside: See `of_samples`.
        frames, sample_weight: As of the call.
        are_maps: Whether values are maps, which each frame has for itself.
        takes_clips: Whether `of_images` is given clips as they are.
    """
    output = images[0]
    is_clip = loss.is_clip(first_of(output)) and not takes_clips
    join = join_of(frames, is_clip, loss.reduction)
    wide = torch.float64 if loss.network_dtype() == torch.float64 else torch.float32
    weight = SampleWeight.of(sample_weight, count_of(output), loss.device, wide)
    values = of_samples(of_images, images, beside, is_clip, maps_of_frames if are_maps else join, weight.skipped)
    return [checks.reduce(weight.times(value), loss.reduction) for value in values]


def of_samples(
    of_images: OfImages,
    images: Sequence[Samples],
    beside: Sequence[Samples],
    is_clip: bool,
    join: Callable[[Tensor], Tensor],
    skipped: Sequence[bool] = (),
) -> list[Tensor]:
    """The values of each sample, each (N, ...).

    Args:
        of_images: The loss.
        images: The output (N, C, H, W), and those that it is compared with (N or 1, C, H, W); of clips
            (N, C, T, H, W). Or lists of as many: those of one size run as a batch.
        beside: What is kept for each sample, (N or 1, ...); of clips for each frame, (N or 1, T or 1, ...). A list
            of N batches of 1 where they differ in size.
        is_clip: Whether samples are clips, whose frames `of_images` takes as images.
        join: What becomes of the values (N, T, ...) of a clip's frames.
        skipped: Whether each sample is left out, (N); its values are 0. Empty: none is.
    """
    output = images[0]
    if isinstance(output, Tensor) and not any(skipped):
        batches, others = ([x for x in samples if isinstance(x, Tensor)] for samples in (images, beside))
        return _of_batch(of_images, batches, others, is_clip, join)
    skipped = skipped or [False] * len(output)
    found: dict[int, list[Tensor]] = {}
    for rows in _alike(output):
        run, left = [i for i in rows if not skipped[i]], [i for i in rows if skipped[i]]
        batches = [_picked(x, run, left) for x in images]
        values = _of_batch(of_images, batches, [_picked(x, run, left) for x in beside], is_clip, join)
        if left:  # whose zeros are part of the graph: their gradients are 0, even if all are left out
            values = [torch.cat([value, value.new_zeros(len(left), *value.shape[1:])]) for value in values]
        found |= dict(
            zip([*run, *left], map(list, zip(*[value.split(1) for value in values], strict=True)), strict=True)
        )
    in_order = [found[i] for i in range(len(found))]
    return [_joined(parts) for parts in zip(*in_order, strict=True)]


def checked_list(name: str, images: Sequence[object], check: Callable[[str, object], Tensor]) -> list[Tensor]:
    """Images (C, H, W) or (1, C, H, W), or clips (1, C, T, H, W), each as a batch of 1 that was checked."""
    if not images:
        raise ValueError(f"{name}: expected a batch of images or a list of at least one, got an empty list")
    found: list[Tensor] = []
    for i, image in enumerate(images):
        argument = f"{name}[{i}]"
        batch = check(argument, image.unsqueeze(0) if isinstance(image, Tensor) and image.dim() == 3 else image)
        if batch.shape[0] != 1:
            raise ValueError(f"{argument}: expected one image, (C, H, W) or (1, C, H, W), got {tuple(batch.shape)}")
        if found and batch.dim() != found[0].dim():
            raise ValueError(f"{argument}: expected images or clips, as {name}[0], got {tuple(batch.shape)}")
        found.append(batch)
    return found


def count_of(samples: Samples) -> int:
    return samples.shape[0] if isinstance(samples, Tensor) else len(samples)


def first_of(samples: Samples) -> Tensor:
    """A batch of images that are like the others but for their sizes."""
    return samples if isinstance(samples, Tensor) else samples[0]


def pairs_of(name: str, output: Samples, target: Samples) -> list[tuple[str, Tensor, Tensor]]:
    """What is to be compared, by the name of the second: two batches, or two lists image by image."""
    if isinstance(output, Tensor) and isinstance(target, Tensor):
        return [(name, output, target)]
    if isinstance(output, Tensor):
        raise ValueError(f"{name}: expected a batch, as output is, got a list")
    if isinstance(target, Tensor) or len(target) != len(output):
        came = "a batch" if isinstance(target, Tensor) else f"one of {len(target)}"
        raise ValueError(f"{name}: expected a list of {len(output)} images, as output is, got {came}")
    return [(f"{name}[{i}]", x, y) for i, (x, y) in enumerate(zip(output, target, strict=True))]


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


def _of_batch(
    of_images: OfImages,
    images: list[Tensor],
    beside: Sequence[Tensor],
    is_clip: bool,
    join: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    if not is_clip:
        return of_images(images, list(beside))
    clips = [frames_first(x) for x in images]
    batch, frames = clips[0].shape[:2]
    values = of_images([as_batch(x, batch, frames) for x in clips], [as_batch(x, batch, frames) for x in beside])
    return [join(value.unflatten(0, (batch, frames))) for value in values]


def _alike(output: Samples) -> list[list[int]]:
    """The samples that may run as one batch, in order."""
    if isinstance(output, Tensor):
        return [list(range(output.shape[0]))]
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, x in enumerate(output):
        groups.setdefault(tuple(x.shape), []).append(i)
    return list(groups.values())


def _picked(samples: Samples, run: list[int], left: list[int]) -> Tensor:
    """The batch of those that run. Those left out are part of it with none of their pixels: see the zeros above."""
    if isinstance(samples, Tensor):
        if samples.shape[0] == 1:  # the only sample, or it stands for every one
            return samples if run else samples[:0]
        samples = list(samples.split(1))
    parts = [*[samples[i] for i in run], *[samples[i][:0] for i in left]]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _joined(parts: Sequence[Tensor]) -> Tensor:  # (1, ...) each -> (N, ...)
    for i, part in enumerate(parts):
        if part.shape != parts[0].shape:
            raise ValueError(
                f"output[{i}]: expected the size and frames of output[0], since each pixel or frame has a value of its "
                f"own; got {tuple(part.shape[1:])} for {tuple(parts[0].shape[1:])}"
            )
    return torch.cat(list(parts))
