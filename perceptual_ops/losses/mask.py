"""Masks of the pixels of a call's images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import _checks as checks
from .. import ops
from .samples import Samples, frames_first, pairs_of

if TYPE_CHECKING:
    from .base import FrozenLoss


def masks_of(loss: FrozenLoss, mask: object, output: Samples) -> list[Samples]:
    """What goes beside the samples of a call by its argument `mask`: one (N or 1, 1, H, W), or none.

    Of clips it is that of their frames, (N or 1, T or 1, 1, H, W).

    Args:
        loss: Whose call it is.
        mask: (N or 1, 1, H, W), of clips (N or 1, 1, T or 1, H, W), floating point or bool; a list for a list.
        output: Checked.
    """
    if mask is None:
        return []
    if isinstance(mask, (list, tuple)):
        given: Samples = [x[None] if isinstance(x, Tensor) and x.dim() == 3 else x for x in mask]
    elif isinstance(mask, Tensor):
        given = mask
    else:
        raise TypeError(f"mask: expected a tensor of numbers in [0, 1], got {type(mask).__name__}")
    found = [_checked(loss, *pair) for pair in pairs_of("mask", output, given)]
    if not isinstance(given, list):
        return [found[0]]
    if loss.is_clip(output[0]):  # those of one size run as a batch: as many frames each
        found = [x.expand(1, y.shape[2], -1, -1, -1) for x, y in zip(found, output, strict=True)]
    return [found]


def checked_regions(masks: object, count: int, device: torch.device) -> list[Tensor]:
    """The masks (1, 1, H, W) of as many styles, by the argument `masks`."""
    if not isinstance(masks, (list, tuple)) or len(masks) != count:
        came = f"{len(masks)}" if isinstance(masks, (list, tuple)) else type(masks).__name__
        raise ValueError(f"masks: expected a list of {count}, one for each style image; got {came}")
    found = []
    for i, mask in enumerate(masks):
        checked = check_numbers(f"masks[{i}]", mask, device)
        if checked.dim() != 4 or checked.shape[0] != 1 or checked.shape[1] != 1 or not checked.numel():
            raise ValueError(f"masks[{i}]: expected shape (1, 1, H, W), got {tuple(checked.shape)}")
        found.append(checked.to(torch.promote_types(checked.dtype, torch.float32)).clone())
    return found


def guides_of(mask: Tensor | None, regions: Sequence[Tensor]) -> list[Tensor]:
    """What guides the style part: the regions, each (1, 1, H, W), within the mask (N or 1, 1, H, W)."""
    if mask is None:
        return list(regions)
    return [region * mask for region in regions] if regions else [mask]


def check_numbers(name: str, mask: object, device: torch.device) -> Tensor:
    """A tensor of numbers in [0, 1].

    Those of a GPU are not looked at, for which the host would wait, nor are those of compiled code and programs.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name}: expected a tensor of numbers in [0, 1], got {type(mask).__name__}")
    if mask.dtype != torch.bool and mask.dtype not in checks.DTYPES:
        raise TypeError(
            f"{name}: expected floating-point numbers in [0, 1], or bool, got {mask.dtype}; convert 8-bit masks by "
            f"{name}.float() / 255"
        )
    checks.refuse_gradient(name, mask)
    if mask.device != device:
        raise ValueError(f"{name}: expected a mask on {device}, where the loss is; got {mask.device}; move it by .to()")
    is_known = mask.device.type == "cpu" and not torch.compiler.is_compiling() and not ops.makes_program()
    if is_known and mask.dtype != torch.bool and mask.numel():
        least, most = (end.item() for end in torch.aminmax(mask))
        if not (least >= 0 and most <= 1):
            came = "NaN among them" if math.isnan(least) else f"{least:.6g} to {most:.6g}"
            raise ValueError(f"{name}: expected numbers in [0, 1], got {came}; clamp or scale them")
    return mask


def _checked(loss: FrozenLoss, name: str, output: Tensor, mask: object) -> Tensor:
    """That of a batch (N, C, H, W), or of clips (N, C, T, H, W), in the accumulation dtype."""
    checked, is_clip = check_numbers(name, mask, loss.device), loss.is_clip(output)
    if output.dim() == 5 and not is_clip:
        raise ValueError(f"{name}: expected None for clips that a module of your own takes, got a mask")
    batch, length, (height, width) = output.shape[0], output.shape[2] if is_clip else 1, output.shape[-2:]
    is_alike = checked.dim() == output.dim() and checked.shape[1] == 1
    is_alike = is_alike and checked.shape[-2] == height and checked.shape[-1] == width
    is_alike = is_alike and (checked.shape[0] == 1 or checked.shape[0] == batch)
    if not is_alike or (is_clip and checked.shape[2] != 1 and checked.shape[2] != length):
        count, frames = "1" if batch == 1 else f"{batch} or 1", "1" if length == 1 else f"{length} or 1"
        shape = f"({count}, 1, {f'{frames}, ' if is_clip else ''}{height}, {width})"
        raise ValueError(f"{name}: expected shape {shape} for that output, got {tuple(checked.shape)}")
    wide = torch.float64 if loss.network_dtype() == torch.float64 else torch.float32
    # A tensor of its own at each call, since a CUDA graph copies what is another one than the last time.
    found = checked.to(wide).view_as(checked)
    return frames_first(found) if is_clip else found
