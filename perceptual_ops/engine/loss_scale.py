"""Loss scaling: an fp16 gradient on its way down a trunk, one scale for each sample, without a GradScaler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 2.0**15  # half of what fp16 holds
MOST = 60  # of the exponent, so that a ratio of two scales is an fp32 number
EXPONENT = 0x7F800000  # its bits in an fp32 number


@dataclass(frozen=True)
class Growth:
    """How much larger than its input the input gradient of what comes next can be.

    Attributes:
        most: At most so much, 1 at least; of a convolution a tensor (), on the device, so that the host never waits.
        room: The largest input that stays within what fp16 holds.
    """

    most: Tensor | float
    room: Tensor | float

    @classmethod
    def of(cls, most: Tensor | float) -> Growth:
        return cls(most, LARGEST / most)


def scale_of(bound: Tensor, room: Tensor | float = LARGEST, before: Tensor | None = None) -> Tensor:  # (N) -> (N)
    """The largest power of two that keeps a gradient of at most `bound` within `room`, times the scale that it has.

    Where there is no gradient, or one that is not finite, any scale will do.
    """
    power = (room / bound).view(torch.int32).bitwise_and_(EXPONENT).view(torch.float32)  # by its bits: exactly
    if before is not None:
        power.mul_(before)
    return power.clamp_(2.0**-MOST, 2.0**MOST)


class LossScale:
    """A power of two for each sample that keeps its gradient within what fp16 holds.

    The gradient is made before anyone knows the factor that a GradScaler will bring, and by itself, a mean over a map,
    it would vanish. What overflows cannot be mended, so the scale follows bounds: the largest magnitude, measured where
    the last ReLU was passed, times the most that a convolution can make of it. They are a few hundred times above the
    truth as a rule; fp16 has the room. Gradients below about 1e-20 are lost. Everything stays on the device, in few
    operations, each of which is a launch on a GPU.

    Attributes:
        current: (N) fp32, what the gradient is multiplied by.
    """

    def __init__(self, like: Tensor) -> None:  # (N, ...)
        self.current = like.new_ones(like.shape[0], dtype=torch.float32)
        # Of the gradient (N), times the scale that was current when it was noted; None before there is one.
        self._bound: Tensor | None = None
        self._noted_at = self.current

    def choose(self, taps: Sequence[Tensor], spread: float, growth: Growth | None, first: bool) -> Tensor | None:
        """Chooses the next scale.

        Args:
            taps: Bounds (N) of the gradients that come in here, unscaled.
            spread: How much the gradient may grow before it is written again.
            growth: Of the next convolution; None where nothing comes.
            first: Whether there is no gradient yet, and one tap at least.

        Returns:
            What the gradient is to be multiplied by when it is written, (N); None where there is none.
        """
        bound = self._bound_to_come(taps, spread)
        before = self.current
        self.current = scale_of(bound, growth.room if growth else LARGEST, None if first else before)
        self._bound, self._noted_at = bound, before
        return None if first else self.current / before

    def grow(self, growth: Growth) -> None:
        """Takes note of a convolution before which nothing was measured."""
        assert self._bound is not None
        self._bound = self._bound * growth.most

    def measured(self, maxima: Tensor, growth: Growth | None) -> None:
        """Takes note of the largest magnitudes (N), as scaled, before a convolution or none."""
        self._bound, self._noted_at = maxima, self.current
        if growth is not None:
            self.grow(growth)

    def _bound_to_come(self, taps: Sequence[Tensor], spread: float) -> Tensor:  # (N)
        """As `_bound`, at the current scale, once the taps are added."""
        bound = self._bound
        if bound is None:  # at a scale of 1
            return sum(taps[1:], taps[0])
        if self._noted_at is not self.current:
            bound = bound * (self.current / self._noted_at)
        bound = bound if spread == 1 else bound * spread
        for tap in taps:
            bound = torch.addcmul(bound, tap, self.current)
        return bound
