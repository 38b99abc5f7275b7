"""Channel means and standard deviations of a style: merged from parts of maps, and compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as checks
from .terms import Part

operators: Any = torch.ops.perceptual_ops

STATISTICS = 2  # means and deviations


def moments_of(x: Tensor) -> Tensor:  # (n, C, h, w) -> (n, 2, C)
    """Means and squared deviations, in fp64, with the eps of the deviation's root included."""
    mean, deviation = operators.channel_statistics([x])[0].to(checks.widest(x.device)).split(1, 1)
    return torch.cat([mean, deviation.square()], 1)


def statistics_by(moments: Tensor) -> Tensor:  # (n, 2, C)
    """Means and deviations."""
    mean, squares = moments.split(1, 1)
    return torch.cat([mean, squares.sqrt()], 1)


def merged(a: Tensor, b: Tensor, share: float) -> Tensor:  # (n, 2 K, C)
    """Merged moments of two parts, means first; `share` is the second part's share of the pixels (Chan et al. 1983)."""
    (mean, squares), (other, of_other) = a.chunk(2, 1), b.chunk(2, 1)
    step = other - mean
    between = step.square() * (share * (1 - share))
    return torch.cat([mean + step * share, torch.lerp(squares, of_other, share) + between], 1)


def moments_over_frames(moments: Tensor) -> Tensor:  # (N, T, 2, C) -> (N, 2, C)
    """Of clips by those of their frames."""
    means, squares = moments.unbind(2)
    mean = means.mean(1, keepdim=True)
    return torch.stack([mean.squeeze(1), (squares + (means - mean).square()).mean(1)], 1)


def compare_statistics(
    statistics: list[Tensor],  # L x (n, 2, C)
    targets: list[Tensor],  # L x (n or 1, 2, C)
    weights: list[float],
    part: Part,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The distance of the means plus that of the deviations: loss (n), values (L, n), slopes L x (n, 2, C)."""
    # As maps of one pixel: a mean over the numbers of both is half the sum of their means.
    share = 1 if part.distance == "sse" else STATISTICS
    maps, of_targets = ([x.flatten(1)[..., None, None] for x in side] for side in (statistics, targets))
    loss, values, slopes = operators.feature_loss_with_gradient(
        maps, of_targets, [share * weight for weight in weights], part.distance, part.parameter
    )
    return loss, share * values, [slope.view(x.shape) for slope, x in zip(slopes, statistics, strict=True)]


def slope_rows(statistics: Tensor, slopes: Tensor, pixels: int) -> Tensor:  # (n, 2, C), (n, 2, C) -> (n, 4, C)
    """What the gradient with respect to a map needs: the statistics, and d loss / d statistics over the pixels."""
    return torch.cat([statistics, slopes / pixels], 1)


def gradients_by(
    scale: Tensor | None,  # (n)
    maps: list[Tensor],  # L x (n, C, h, w)
    rows: list[Tensor],  # L x (n, 4, C), see `slope_rows`
    others: list[Tensor | None],  # L x (n, C, h, w)
) -> list[Tensor]:
    """d(scale * loss) / d maps, or parts of them, each plus another gradient of its shape."""
    statistics, slopes = ([x[:, part] for x in rows] for part in (slice(STATISTICS), slice(STATISTICS, None)))
    return operators.channel_statistics_backward(scale, maps, statistics, slopes, [1] * len(maps), others)
