"""WeightedTVLoss."""

from __future__ import annotations

from functools import partial
from typing import get_args

import torch
from torch import Tensor

from ... import _checks as checks
from ..._settings import ModuleWithSettings, setting
from ...names import BatchReduction


class WeightedTVLoss(ModuleWithSettings):
    """BasicSR's `WeightedTVLoss`: L1 between neighbours, down plus across, each with a mean or sum of its own.

    As in BasicSR, a mean with weights is divided by their sum, and is NaN where that is 0.

    Args:
        loss_weight: Factor of the loss.
        reduction: "mean" or "sum".

    Raises:
        TypeError, ValueError: Invalid argument.
    """

    loss_weight: float = setting("loss_weight", checks.check_number)
    reduction: BatchReduction = setting("reduction", partial(checks.check_choice, choices=get_args(BatchReduction)))

    def __init__(self, loss_weight: float = 1.0, reduction: BatchReduction = "mean") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction = reduction

    def forward(self, pred: Tensor, weight: Tensor | None = None) -> Tensor:
        """The total variation of images, a scalar.

        Args:
            pred: Images (N, C, H, W), any range.
            weight: Weight of each pixel towards the one below it and to its right, (N, C, H, W) or (N, 1, H, W). One
                for the whole batch, of which BasicSR's mean is N times too large, is refused.
        """
        checks.check_map("pred", pred)
        if weight is not None:
            _check_weight(pred, weight)
        variation = torch.zeros((), dtype=checks.accumulator_dtype(pred), device=pred.device)
        for axis in (2, 3):
            length = pred.shape[axis] - 1
            steps = pred.narrow(axis, 1, length) - pred.narrow(axis, 0, length)
            variation = variation + self._reduced(steps, None if weight is None else weight.narrow(axis, 0, length))
        return self.loss_weight * variation

    def _reduced(self, steps: Tensor, weight: Tensor | None) -> Tensor:  # (N, C, H, W) -> ()
        distances = steps.abs() if weight is None else steps.abs() * weight
        total = distances.sum(dtype=checks.accumulator_dtype(steps))
        if self.reduction == "sum":
            return total
        if weight is None:
            return total / steps.numel()
        return total / (weight.sum(dtype=total.dtype) * (steps.shape[1] // weight.shape[1]))


def _check_weight(pred: Tensor, weight: object) -> None:
    """Of every image its own: BasicSR's mean by one for the whole batch would be N times too large."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight: expected a tensor, got {type(weight).__name__}")
    if weight.device != pred.device:
        raise ValueError(f"weight: expected a tensor on {pred.device}, where pred is; got {weight.device}")
    is_map = weight.dim() == 4
    # Axis by axis: symbolic sizes under torch.compile stay symbolic.
    of_each = is_map and (weight.shape[1] == 1 or weight.shape[1] == pred.shape[1])
    if of_each and all(weight.shape[axis] == pred.shape[axis] for axis in (0, 2, 3)):
        return
    remedy = "; weight.expand(N, -1, -1, -1) weighs each image alike" if is_map and weight.shape[0] == 1 else ""
    raise ValueError(
        f"weight: expected (N, 1, H, W) or the shape of pred, {tuple(pred.shape)}; got {tuple(weight.shape)}{remedy}"
    )
