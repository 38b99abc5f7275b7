"""Loss scaling: an fp16 gradient on its way down a trunk, one scale for each sample, without a GradScaler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

operators: Any = torch.ops.perceptual_ops

LARGEST = 2.0**15  # half of what fp16 holds


def scale_of(*bounds: Tensor) -> Tensor:  # (N) -> (N)
    """The largest power of two with which gradients of at most `bounds`, added, stay within what fp16 holds."""
    return operators.loss_scale(None, None, None, 1.0, bounds, None, LARGEST)[0]


class LossScale:
    """A power of two for each sample that keeps its gradient within what fp16 holds.

    The gradient is made before anyone knows the factor that a GradScaler will bring, and by itself, a mean over a map,
    it would vanish. What overflows cannot be mended, so the scale follows bounds: the largest magnitude, measured where
    the last ReLU was passed, times the most that a convolution can make of it. They are a few hundred times above the
    truth as a rule; fp16 has the room. Gradients below about 1e-20 are lost. Everything stays on the device, and each
    choice is one launch on a GPU.

    The growth of a convolution, how much larger than its input its input gradient can be, is a tensor (), so that the
    host never waits; 1 at least.
    """

    def __init__(self) -> None:
        self._scale: Tensor | None = None
        # Of the gradient (N), times the scale, before it grew; None before there is one.
        self._bound: Tensor | None = None
        self._grown: Tensor | None = None
        self._maxima: Tensor | None = None

    @property
    def current(self) -> Tensor:
        """What the gradient is multiplied by, (N) fp32; to be asked once it was chosen."""
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
            taps: Bounds (N) of the gradients that come in here, unscaled; one at least where there is no gradient yet.
            spread: How much the gradient may grow before it is written again.
            grows: The growth of the next convolution; None where nothing comes.
            room: The largest magnitude after that.

        Returns:
            What the gradient is to be multiplied by when it is written, (N); None where there is none yet.
        """
        first = self._bound is None
        chosen = operators.loss_scale(self._scale, self._bound, self._grown, spread, taps, grows, room)
        self._scale, factor, self._bound, self._maxima = chosen.unbind()
        self._grown = None
        return None if first else factor

    def grow(self, growth: Tensor) -> None:
        """Takes note of a convolution."""
        self._grown = growth if self._grown is None else self._grown * growth

    def measured(self) -> Tensor:
        """Zeros (N) that are to become the largest magnitudes of the gradient where it is written, in place of a bound.

        Once for each choice.
        """
        self._bound, self._maxima = self._maxima, None
        assert self._bound is not None
        return self._bound
