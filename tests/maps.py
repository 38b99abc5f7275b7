"""Feature maps for tests: dtypes, shapes, and the accuracy that operators owe."""

from __future__ import annotations

import torch
from torch import Tensor

from perceptual_ops._accuracy import LAST_PLACES, LAYOUTS, allowed_error, random_map, relative_error

__all__ = [
    "DTYPES",
    "LAST_PLACES",
    "LAYOUTS",
    "SHAPES",
    "assert_accurate",
    "assert_close_by_scale",
    "random_map",
    "relative_error",
]

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

# Odd tails, tiles that end inside, one channel, one pixel, one row, one column, and the tile sizes of the kernels.
SHAPES = [
    (2, 5, 7, 9),
    (1, 64, 33, 31),
    (3, 1, 4, 4),
    (4, 7, 1, 1),
    (2, 3, 5, 1),
    (2, 130, 1, 3),
    (1, 70, 64, 40),
    (1, 1, 1, 1),
]


def assert_accurate(ours: Tensor, naive: Tensor, exact: Tensor, *more: Tensor) -> None:
    """See `allowed_error`; `more` are naive runs, too, and the worst of all counts."""
    assert ours.shape == exact.shape
    assert ours.isfinite().all()
    error = relative_error(ours, exact)
    allowed = max(allowed_error(ours.dtype, one, exact) for one in (naive, *more))
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def assert_close_by_scale(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Measured by the largest of the numbers that are expected, not all of which are 0."""
    scale = expected.detach().abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, rtol=tolerance, atol=tolerance)
