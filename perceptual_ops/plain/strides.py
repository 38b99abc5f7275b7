"""Results laid out as the compiled operators lay them out."""

from __future__ import annotations

import torch
from torch import Tensor


def strided_like(x: Tensor, values: Tensor) -> Tensor:
    """The values with the dtype and strides of `torch.empty_like(x)`."""
    made = torch.empty_like(x)
    return values if values.stride() == made.stride() and values.dtype == made.dtype else made.copy_(values)
