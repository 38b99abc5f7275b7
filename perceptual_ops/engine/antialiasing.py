"""Antialiased interpolation that is deterministic both ways, and differentiable any number of times."""

from __future__ import annotations

import functools
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as checks
from .. import ops
from .._autocast import autocast
from ..names import Interpolation

INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


def resized(images: Tensor, height: int, width: int, mode: str) -> Tensor:  # (N, C, H, W) -> (N, C, height, width)
    """What `torch.nn.functional.interpolate` gives with `antialias=True`, whose backward on CUDA adds by atomics.

    On a CPU it is deterministic, and takes half the time of the products or less; a program is for images of any size.
    """
    if images.device.type == "cpu" or ops.makes_program():
        return F.interpolate(images, (height, width), mode=mode, antialias=True)
    return resized_by_products(images, height, width, mode)


def resized_by_products(images: Tensor, height: int, width: int, mode: str) -> Tensor:
    """As `resized`, by two matrix products, whose precision follows torch's settings."""
    shares = interpolation if torch.compiler.is_compiling() else kept_interpolation
    rows, columns = (
        shares(entered, size, mode, images.dtype, images.device)
        for entered, size in zip(images.shape[2:], (height, width), strict=True)
    )
    with autocast(images.device.type):
        return rows @ (images @ columns.mT)


def interpolation(
    entered: int, size: int, mode: str, dtype: torch.dtype, device: torch.device
) -> Tensor:  # (size, entered)
    """The weights of each of `entered` pixels in each of `size` output pixels.

    The filter is as wide as the step where that is above one pixel, as PIL's and torch's: a triangle, or the cubic of
    Keys 1981 with a = -0.5.
    """
    step = entered / size
    centers = (torch.arange(size, dtype=torch.float64, device="cpu") + 0.5) * step
    offsets = torch.arange(entered, dtype=torch.float64, device="cpu") + 0.5 - centers[:, None]
    x = offsets.abs() / max(step, 1.0)
    if mode == "bilinear":
        shares = (1 - x).clamp_min(0)
    elif mode == "bicubic":
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        shares = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    else:
        raise checks.unknown("mode", mode, INTERPOLATIONS)
    return (shares / shares.sum(1, keepdim=True)).to(device, dtype)


@functools.lru_cache(maxsize=64)
def kept_interpolation(entered: int, size: int, mode: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`interpolation`, made once; on the CPU, so that a CUDA graph that is captured before refuses the copy."""
    with torch.inference_mode(False), torch.no_grad():
        return interpolation(entered, size, mode, dtype, device)


def area_average(mask: Tensor, height: int, width: int) -> Tensor:  # (n, 1, H, W) -> (n, 1, height, width)
    """The mean of the pixels that each new one lies on, even in part."""
    is_there = mask.shape[2] == height and mask.shape[3] == width
    return mask if is_there else F.adaptive_avg_pool2d(mask, (height, width))
