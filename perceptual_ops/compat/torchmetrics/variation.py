"""Total variation (torchmetrics/image/tv.py)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ... import _checks as checks
from ... import ops
from ...names import Backend, Reduction
from .scores import ScoreMetric, check_reduction


class TotalVariation(ScoreMetric):
    """torchmetrics' `TotalVariation`: an image's sum of the absolute differences between pixels side by side.

    The same as `perceptual_ops.total_variation(img, "l1")`, in fp32 for fp16 and bf16 too. `compute` before any
    `update` raises a RuntimeError (torchmetrics warns), and so are images of integers refused, whose differences have
    no sign in 8 bits.

    Attributes:
        reduction: May be set, too, from "mean" to "sum" and back.

    Args:
        reduction: "mean" or "sum" over all images, or "none" or None.
        backend: As of `perceptual_ops.total_variation`.
        kwargs: Those of `torchmetrics.Metric`.
    """

    def __init__(self, reduction: Reduction | None = "sum", *, backend: Backend = "auto", **kwargs: Any) -> None:
        super().__init__(reduction, **kwargs)
        checks.check_choice("backend", backend, checks.BACKENDS)
        self.backend: Backend = backend

    def update(self, img: Tensor) -> None:
        """Adds the scores of images (N, C, H, W).

        Raises:
            TypeError, ValueError: Images of a wrong type or shape.
        """
        self._take_in(img)

    def _scores(self, img: Tensor) -> Tensor:  # type: ignore[override]
        return ops.total_variation(checks.check_map("img", img), "l1", "none", backend=self.backend)


def total_variation(img: Tensor, reduction: Reduction | None = "sum", *, backend: Backend = "auto") -> Tensor:
    """torchmetrics' function.

    Args:
        img: Images (N, C, H, W).
        reduction: "mean" or "sum" over the batch, or "none" or None.
        backend: As of `perceptual_ops.total_variation`.

    Returns:
        A scalar, or (N,) for "none" or None; fp32 (fp64 for fp64).

    Raises:
        TypeError, ValueError: Invalid argument.
    """
    return ops.total_variation(checks.check_map("img", img), "l1", check_reduction(reduction), backend=backend)
