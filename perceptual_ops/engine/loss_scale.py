"""Loss scaling: an fp16 gradient on its way down a trunk, one scale for each sample, without a GradScaler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 2.0**15  # half of what fp16 holds
MOST = 60  # of the exponent, so that a ratio of two scales is an fp32 number
EXPONENT = 0x7F800000  # its bits in an fp32 number

# How much larger than its input the input gradient of what comes next can be, at most, 1 at least: of a convolution a
# tensor (), on the device, so that the host never waits for it. None where nothing comes.
Growth = Tensor | float | None


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
        self._limit = torch.full_like(self.current, LARGEST)
        # Of the gradient (N), times the scale that was current when it was noted; None before there is one.
        self._bound: Tensor | None = None
        self._noted_at = self.current

    def choose(self, taps: Sequence[Tensor], spread: float, growth: Growth, first: bool) -> Tensor | None:
        """Chooses the next scale.

        Args:
            taps: Bounds (N) of the gradients that come in here, unscaled.
            spread: How much the gradient may grow before it is written again.
            growth: See `Growth`, of the next convolution.
            first: Whether there is no gradient yet, and one tap at least.

        Returns:
            What the gradient is to be multiplied by when it is written, (N); None where there is none.
        """
        bound = self._bound_to_come(taps, spread)
        largest = bound if growth is None else bound * growth
        # By its bits: exactly a power of two.
        step = (self._limit / largest).view(torch.int32).bitwise_and_(EXPONENT).view(torch.float32)
        before = self.current
        # Where there is no gradient, or one that is not finite, any scale will do.
        self.current = (step if first else step * before).clamp_(2.0**-MOST, 2.0**MOST)
        self._bound, self._noted_at = bound, before
        return None if first else self.current / before

    def grow(self, growth: Tensor | float) -> None:
        """Takes note of a convolution before which nothing was measured."""
        assert self._bound is not None
        self._bound = self._bound * growth

    def measured(self, maxima: Tensor, growth: Growth) -> None:
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
