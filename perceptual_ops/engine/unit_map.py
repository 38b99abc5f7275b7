"""Features of unit length over their channels, and the way of a gradient back to the features."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks as checks

EPS = 1e-10  # as in LPIPS


class UnitMap:
    """x / (|x| + EPS) of every pixel; 0, without a gradient, where all channels are 0.

    Attributes:
        map: (n, C, H, W), fp32 (fp64 for fp64).
    """

    def __init__(self, x: Tensor) -> None:  # (n, C, H, W)
        self._length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=checks.accumulator_dtype(x))
        self.map: Tensor = x / (self._length + EPS)

    def input_gradient(self, grad: Tensor) -> Tensor:  # (n, C, H, W) -> (n, C, H, W)
        """The gradient with respect to x."""
        along = (grad * self.map).sum(1, keepdim=True) * (self._length + EPS) / self._length
        gradient = (grad - self.map * along) / (self._length + EPS)
        return torch.where(self._length == 0, 0, gradient)
