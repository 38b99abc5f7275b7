"""Tensors as the launchers take them: memory, offset and strides."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# What lies between the elements of a view that a launch writes to, and must stay.
OUTSIDE = 99.0


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def element(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def memory_of(x: Tensor) -> np.ndarray:
    """The whole memory behind a view, as numpy: fp16 and bfloat16 as their bits."""
    flat = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
    return (flat.view(torch.int16) if x.element_size() == 2 else flat).numpy()


def like_view(memory: np.ndarray, x: Tensor) -> Tensor:
    """Memory that a launch gave back, seen as the view x."""
    return torch.from_numpy(memory).view(x.dtype).as_strided(x.shape, x.stride(), x.storage_offset())


def assert_untouched_outside(memory: np.ndarray, x: Tensor) -> None:
    """What lies between the elements of the view x is what it was."""
    now, before = torch.from_numpy(memory).view(x.dtype).clone(), torch.from_numpy(memory_of(x)).view(x.dtype)
    now.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(x)
    assert torch.equal(now.view(torch.uint8), before.view(torch.uint8)), "memory outside the view was written"


def map_numbers(x: Tensor, layout: str) -> tuple[int, ...]:
    """The kernels' FeatureMap of x (N, C, H, W): (N, C, P, strides of the three)."""
    batch, channels, height, width = x.shape
    if "nhwc" in layout:
        strides = (x.stride(0), 1, x.stride(3) if width > 1 else x.stride(2))
    else:
        strides = (x.stride(0), x.stride(1), 1)
    return (batch, channels, height * width, *strides)


def from_numpy(array: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(array).reshape(shape)
