"""Means and variances of channels over the pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks as checks
from .blocks import row_blocks


def channel_moments(x: Tensor, y: Tensor | None = None) -> Tensor:  # (N, C, H, W), (N or 1, C, H, W) -> (N, 2K, C)
    """Means of x, or of x, y and x - y, then their variances; summed in fp64 where the device has it.

    Variances are sums over differences from fp32 means, which avoids cancellation.
    """
    dtype = checks.accumulator_dtype(x)
    wide = checks.widest(x.device)
    maps = [x] if y is None else [x, y.expand_as(x)]
    centers = [_mean(z, dtype).to(wide) for z in maps]
    if y is not None:
        centers.append(centers[0] - centers[1])
    sums = [[torch.zeros_like(center[:, :, 0, 0]) for center in centers] for _ in range(2)]
    for rows in row_blocks(x):
        values = [z[:, :, rows].to(wide) for z in maps]
        if y is not None:
            values.append(values[0] - values[1])
        for i, (value, center) in enumerate(zip(values, centers, strict=True)):
            error = value - center
            sums[0][i] += error.sum((2, 3))
            sums[1][i] += error.square_().sum((2, 3))
    pixels = max(x.shape[2] * x.shape[3], 1)
    means, squares = (torch.stack(found, 1) / pixels for found in sums)
    return torch.cat([means + torch.stack(centers, 1)[..., 0, 0], squares - means.square()], 1).to(dtype)


def _mean(x: Tensor, dtype: torch.dtype) -> Tensor:  # (N, C, H, W) -> (N, C, 1, 1)
    total = x.new_zeros(*x.shape[:2], 1, 1, dtype=dtype)
    for rows in row_blocks(x):
        total += x[:, :, rows].to(dtype).sum((2, 3), keepdim=True)
    return total / max(x.shape[2] * x.shape[3], 1)


def per_pixel(x: Tensor) -> Tensor:  # (N, C) -> (N, C, 1, 1)
    return x.view(*x.shape, 1, 1)
