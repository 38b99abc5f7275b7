"""What an operator must move and compute, and how fast this device can move and compute.

Bytes are compulsory traffic: every input once for each pass that needs it, every output once, intermediates never. A
gradient is a pass of its own, because it starts from finished Grams. FLOP (a multiplication and an addition are two)
are those of the matrix products; pointwise work hides behind the traffic. Grams and their gradients are fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch

from .timing import MIB, ColdCache, time_one

Shape = Sequence[int]  # (N, C, H, W)

FP32 = 4  # bytes


@dataclass(frozen=True)
class Cost:
    """Compulsory traffic in bytes and matrix-product FLOP of a call."""

    bytes: int = 0
    flop: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.flop + other.flop)


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of a device: bytes a second of a copy (read + write), FLOP a second of a matrix product."""

    bandwidth: float
    flop_rate: float

    def floor(self, cost: Cost) -> float:
        """Seconds below which no implementation gets that moves these bytes and computes these FLOP in this dtype."""
        return max(cost.bytes / self.bandwidth, cost.flop / self.flop_rate)


def gram(shape: Shape, dtype: torch.dtype) -> Cost:
    """X read, G written; N C (C + 1) H W FLOP: G is symmetric, half of it with its diagonal is computed."""
    batch, channels, height, width = shape
    traffic = prod(shape) * dtype.itemsize + batch * channels**2 * FP32
    return Cost(traffic, batch * channels * (channels + 1) * height * width)


def gram_gradient(shape: Shape, dtype: torch.dtype) -> Cost:
    """dG and X read, dX = (dG + dG^T) X written; 2 N C^2 H W FLOP: the full product."""
    batch, channels, height, width = shape
    traffic = 2 * prod(shape) * dtype.itemsize + batch * channels**2 * FP32
    return Cost(traffic, 2 * batch * channels**2 * height * width)


def head(styles: Sequence[Shape], contents: Sequence[Shape], dtype: torch.dtype) -> Cost:
    """Style loss with target Grams of batch 1, plus feature loss of some of the same maps, with the gradient.

    For the Grams: X and the target Grams read. For the gradient, in whose pass the feature loss is summed too: X and
    the content targets read, dX written. Grams and their slopes are intermediates. FLOP as for `gram` and
    `gram_gradient`.
    """
    maps, targets = sum(map(prod, styles)), sum(map(prod, contents))
    grams = sum(channels**2 for _, channels, _, _ in styles)
    flop = sum(gram(shape, dtype).flop + gram_gradient(shape, dtype).flop for shape in styles)
    return Cost((3 * maps + targets) * dtype.itemsize + grams * FP32, flop)


def total_variation(shape: Shape, dtype: torch.dtype) -> Cost:
    """X read for the sum; X read and dX written for the gradient; no matrix product."""
    return Cost(3 * prod(shape) * dtype.itemsize)


def channel_statistics(shapes: Sequence[Shape], dtype: torch.dtype) -> Cost:
    """X read for the statistics; X read and dX written for the gradient; no matrix product."""
    return Cost(3 * sum(map(prod, shapes)) * dtype.itemsize)


def metric(shapes: Sequence[Shape], dtype: torch.dtype) -> Cost:
    """LPIPS or DISTS: X and Y read for the value; X and Y read and dX written for the gradient by X."""
    return Cost(5 * sum(map(prod, shapes)) * dtype.itemsize)


def copy_bandwidth(cache: ColdCache, seconds: float) -> float:
    """Bytes a second, read and written, of copying a tensor larger than the caches."""
    size = 1024 * MIB if cache.device.type == "cuda" else 256 * MIB
    source = torch.ones(size // FP32, device=cache.device)
    target = torch.empty_like(source)
    return 2 * size / time_one(lambda: target.copy_(source), cache, seconds).median


def matmul_rate(dtype: torch.dtype, cache: ColdCache, seconds: float) -> float:
    """FLOP a second of a square matrix product in this dtype, at torch's default precision (fp32: no TF32).

    Of 16 bits on a CPU without such products, where torch's own loop makes two GFLOP a second, that of fp32: what
    is widened first is limited by it.
    """
    side = 8192 if cache.device.type == "cuda" else 1024
    dtypes = {dtype, torch.float32} if cache.device.type == "cpu" and dtype.itemsize == 2 else {dtype}
    rates = []
    for product in dtypes:
        matrix = torch.randn(side, side, device=cache.device).to(product)
        timing = time_one(partial(torch.matmul, matrix, matrix), cache, seconds)
        rates.append(2 * side**3 / timing.median)
    return max(rates)
