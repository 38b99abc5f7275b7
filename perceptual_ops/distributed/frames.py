"""The loss of clips whose frames are sharded over ranks: each computes its own; the values are summed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .. import _checks as checks
from ..losses.metric import MetricLoss
from ..losses.perceptual import PerceptualLoss
from .agreement import Report
from .dtensors import DIM
from .parts import Parts
from .ranks import Ranks


def loss_of_frames(criterion: PerceptualLoss | MetricLoss, parts: Parts) -> Tensor:  # () or (N)
    """The mean over this rank's frames."""
    if isinstance(criterion, PerceptualLoss) and criterion.style_layers and criterion.gram_over == "clip":
        raise ValueError(
            'criterion: expected gram_over="frame" for frames on several ranks, got "clip", whose Gram is over all'
        )
    output, target = parts.output, parts.target
    if not output.shape[DIM]:  # zeros, of a graph
        wide = torch.float64 if criterion.network_dtype() == torch.float64 else torch.float32
        zeros = [x.to(wide).sum((1, 2, 3, 4)) for x in (output, target) if x is not None]
        return checks.reduce(reduce(torch.add, zeros), criterion.reduction)
    loss = criterion(output, target)
    if loss.dim() > 1:
        raise ValueError(f"criterion: expected one whose result is a number, got one of maps {tuple(loss.shape)}")
    return loss


def joined_frames(loss: Tensor, ranks: Ranks, reports: Sequence[Report]) -> Tensor:  # () or (N)
    """The mean over all frames, from the mean over this rank's."""
    count = sum(report.length for report in reports)
    if not count:
        raise ValueError("output: expected a clip of at least one frame, got none on any rank")
    part = loss * (reports[ranks.rank].length / count)
    total: Tensor = _SumOverRanks.apply(part, ranks)
    return total


class _SumOverRanks(torch.autograd.Function):
    """The sum in rank order; the gradient with respect to each term is the upstream gradient, which all ranks have."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks) -> Tensor:
        return reduce(torch.add, ranks.gathered(part))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
