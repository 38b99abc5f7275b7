"""Loss scaling: an fp16 gradient on its way down a trunk, one scale for each sample, without a GradScaler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 2.0**15  # half of what fp16 holds
MOST = 60  # of the exponent, so that a ratio of two scales is an fp32 number

# How much larger than its input the input gradient of what comes next can be, at most: of a convolution a tensor (), on
# the device, so that the host never waits for it. None where nothing comes.
Growth = Tensor | float | None


class LossScale:
    """A power of two for each sample that keeps its gradient within what fp16 holds.

    The gradient is made before anyone knows the factor that a GradScaler will bring, and by itself, a mean over a map,
    it would vanish. What overflows cannot be mended, so the scale follows bounds: the largest magnitude, measured where
    the last ReLU was passed, times the most that a convolution can make of it. They are a few hundred times above the
    truth as a rule; fp16 has the room. Gradients below about 1e-20 are lost. Everything stays on the device.

    Attributes:
        current: (N) fp32, what the gradient is multiplied by.
    """

    def __init__(self, like: Tensor) -> None:  # (N, ...)
        self.current = like.new_ones(like.shape[0], dtype=torch.float32)
        self._bound = torch.zeros_like(self.current)  # of the unscaled gradient

    def choose(self, taps: Sequence[Tensor], spread: float, growth: Growth, first: bool) -> Tensor | None:
        """Chooses the next scale.

        Args:
            taps: Bounds (N) of the gradients that come in here, unscaled.
            spread: How much the gradient may grow before it is written again.
            growth: See `Growth`, of the next convolution.
            first: Whether there is no gradient yet.

        Returns:
            What the gradient is to be multiplied by when it is written, (N); None where there is none.
        """
        self._bound = sum(taps, self._bound * spread)
        largest = self._bound if growth is None else torch.maximum(self._bound, self._bound * growth)
        exponent = torch.log2(LARGEST / largest).floor().clamp(-MOST, MOST)
        # Nothing to scale by: no gradient at all, or one that is not finite.
        usable = torch.isfinite(self._bound) & (self._bound > 0)
        exponent = torch.where(usable, exponent, 0).to(torch.int32)
        chosen = ((exponent + 127) << 23).view(torch.float32)  # by its bits: exactly a power of two
        factor = None if first else chosen / self.current
        self.current = chosen
        return factor

    def grow(self, growth: Tensor | float) -> None:
        """Takes note of a convolution before which nothing was measured."""
        self._bound = self._bound * growth

    def measured(self, maxima: Tensor, growth: Growth) -> None:
        """Takes note of the largest magnitudes (N), as scaled, before a convolution or none."""
        self._bound = maxima / self.current
        if growth is not None:
            self.grow(growth)
