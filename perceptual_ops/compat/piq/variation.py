"""TVLoss."""

from __future__ import annotations

from torch import Tensor, nn

from ... import _checks as checks
from ... import ops


class TVLoss(nn.Module):
    """piq's `TVLoss`: the total variation of images, summed over channels and pixels.

    Otherwise than in piq: the gradient of "l2" at a constant image is 0, not NaN; negative values are no error.

    Args:
        norm_type: "l1", "l2" (the root of each image's sum of squares) or "l2_squared".
        reduction: "mean" or "sum" over the batch, or "none".
        backend: As of `perceptual_ops.total_variation`.

    Raises:
        ValueError: An argument is not as described.
    """

    def __init__(self, norm_type: str = "l2", reduction: str = "mean", *, backend: str = "auto") -> None:
        super().__init__()
        checks.check_choice("norm_type", norm_type, checks.VARIATIONS)
        checks.check_choice("reduction", reduction, checks.REDUCTIONS)
        self.norm_type = norm_type
        self.reduction = reduction
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """The total variation of images x (N, C, H, W): a scalar, or (N,) for reduction="none"."""
        return ops.total_variation(x, self.norm_type, self.reduction, backend=self.backend)
