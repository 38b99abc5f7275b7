"""Loss scaling of an fp16 gradient through a trunk: one scale per sample, without a GradScaler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

operators: Any = torch.ops.perceptual_ops

LARGEST = 2.0**15  # half of the range of fp16


def scale_of(*bounds: Tensor) -> Tensor:  # (N) -> (N)
    """The largest power of two that keeps a sum of gradients of at most `bounds` in the range of fp16."""
    return operators.loss_scale(None, None, None, 1.0, bounds, None, LARGEST)[0]


class LossScale:
    """A power of two per sample that keeps its gradient in the range of fp16.

    The gradient is computed before a GradScaler's factor is known, and unscaled, as a mean over a map, it would
    underflow. Overflow cannot be undone, so the scale follows upper bounds: the largest magnitude, measured at the last
    ReLU, times the most that a convolution can amplify it. The bounds are typically a few hundred times too high, for
    which fp16 has room. Gradients below about 1e-20 are lost. Everything stays on the device; each choice of a scale is
    one launch on a GPU.

    The growth of a convolution, a bound of how much its backward amplifies the gradient and 1 at least, is a tensor (),
    so that the host never waits.
    """

    def __init__(self) -> None:
        self._scale: Tensor | None = None
        # Bound (N) of the scaled gradient before it grew; None before there is a gradient.
        self._bound: Tensor | None = None
        self._grown: Tensor | None = None
        self._maxima: Tensor | None = None

    @property
    def current(self) -> Tensor:
        """The scale of the gradient, (N) fp32, once it was chosen."""
        assert self._scale is not None, "the deepest layer is a tap"
        return self._scale

    @current.setter
    def current(self, scale: Tensor) -> None:
        self._scale = scale

    def choose(
        self, taps: Sequence[Tensor], spread: float = 1.0, grows: Tensor | None = None, room: float = LARGEST
    ) -> Tensor | None:
        """Chooses the next scale.

        Args:
            taps: Bounds (N) of the gradients that are added here, unscaled; at least one if there is no gradient yet.
            spread: Bound of how much the gradient grows before it is written again.
            grows: The growth of the next convolution; None if there is none.
            room: The largest magnitude allowed after that.

        Returns:
            The factor (N) for the gradient when it is written next; None if there is no gradient yet.
        """
        first = self._bound is None
        chosen = operators.loss_scale(self._scale, self._bound, self._grown, spread, taps, grows, room)
        self._scale, factor, self._bound, self._maxima = chosen.unbind()
        self._grown = None
        return None if first else factor

    def grow(self, growth: Tensor) -> None:
        """Records the growth of a convolution."""
        self._grown = growth if self._grown is None else self._grown * growth

    def measured(self) -> Tensor:
        """Zeros (N) that the next operator raises to the largest magnitudes of the gradient, in place of a bound.

        Once per choice.
        """
        self._bound, self._maxima = self._maxima, None
        assert self._bound is not None
        return self._bound
