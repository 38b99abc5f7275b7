"""TVLoss."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn.modules.loss import _Loss

from ... import _checks as checks
from ... import ops
from ..._settings import ModuleWithSettings, setting
from ...names import Backend, Reduction, Variation
from .asserted import asserted


def total_variation(
    x: Tensor, reduction: Reduction = "mean", norm_type: Variation = "l2", *, backend: Backend = "auto"
) -> Tensor:
    """piq's `total_variation` of images x (N, C, H, W), summed over channels and pixels.

    Arguments, and differences from piq, are those of `TVLoss`.
    """
    checks.check_choice("norm_type", norm_type, checks.VARIATIONS)
    with asserted():
        checks.check_map("x", x)
    return ops.total_variation(x, norm_type, reduction, backend=backend)


class TVLoss(ModuleWithSettings, _Loss):
    """piq's `TVLoss`: the total variation of images, summed over channels and pixels.

    As in piq `norm_type` and `reduction` are read at each call. Differences from piq: the gradient of "l2" at a
    constant image is 0, not NaN; negative values are no error.

    Args:
        norm_type: "l1", "l2" (the root of each image's sum of squares) or "l2_squared".
        reduction: "mean" or "sum" over the batch, or "none".
        backend: As of `perceptual_ops.total_variation`.

    Raises:
        ValueError: Invalid argument.
    """

    norm_type: Variation = setting("norm_type", partial(checks.check_choice, choices=checks.VARIATIONS))
    reduction: Reduction = setting("reduction", partial(checks.check_choice, choices=checks.REDUCTIONS))
    backend: Backend = setting("backend", partial(checks.check_choice, choices=checks.BACKENDS))

    def __init__(
        self, norm_type: Variation = "l2", reduction: Reduction = "mean", *, backend: Backend = "auto"
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.reduction = reduction
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """The total variation of images x (N, C, H, W): a scalar, or (N,) for reduction="none"."""
        return total_variation(x, self.reduction, self.norm_type, backend=self.backend)
