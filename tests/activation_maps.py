"""Maps for tests of what a trunk does between its convolutions."""

from __future__ import annotations

import pytest
import torch
from maps import DTYPES, random_map
from torch import Tensor

# Odd tails, one channel, one pixel, no sample, channels beyond every block, several bands of rows.
SHAPES = [(2, 5, 7, 9), (1, 64, 33, 31), (3, 1, 4, 4), (4, 7, 1, 1), (0, 3, 8, 6), (1, 1100, 3, 5), (1, 8, 18, 40)]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def nhwc(x: Tensor) -> Tensor:  # a new map (N, C, H, W)
    return x.clone(memory_format=torch.channels_last)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def grid_map(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
    """Quarters: their sums are exact in every dtype, and many of them are zero or equal."""
    return nhwc((random_map(shape, torch.float64, device, seed) * 4).round().div(4).to(dtype))


def normal_map(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
    return nhwc(random_map(shape, dtype, device, seed))


def per_sample(numbers: Tensor) -> Tensor:  # (N) -> (N, 1, 1, 1)
    return numbers.view(-1, 1, 1, 1)


def assert_dense_nhwc(x: Tensor) -> None:
    assert x.is_contiguous(memory_format=torch.channels_last)


def no_maxima(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N)
    """What a backward raises."""
    return x.new_zeros(x.shape[0], dtype=accumulator(x.dtype))


def expected_maxima(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N)
    return x.abs().flatten(1).amax(1).to(accumulator(x.dtype))


def masked(d: Tensor, passes: Tensor, tap: Tensor, below: Tensor, factor: Tensor) -> Tensor:
    """The end of both backwards; `factor` is (N), all else (N, C, H, W)."""
    return torch.where(passes, per_sample(factor) * d + tap, 0) + below
