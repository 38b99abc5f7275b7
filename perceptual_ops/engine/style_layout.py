"""The style of a map as one tensor (N, R, C): the C rows of its Gram, then means and deviations of its channels.

It has those of them that are compared (`terms.compared`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..names import Backend, GramNormalization
from .channel_moments import STATISTICS, moments_over_frames, statistics_by
from .terms import compared


def plain_style(
    x: Tensor,  # (N, C, H, W)
    gram_normalize: GramNormalization,
    style_statistics: str,
    backend: Backend,
) -> Tensor:
    """The style (N, R, C) of maps."""
    grams, statistics = compared(style_statistics)
    parts = [ops.gram_matrix(x, gram_normalize, backend=backend)] if grams else []
    parts += [ops.channel_statistics(x, backend=backend)] if statistics else []
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def style_rows(style_statistics: str, channels: int) -> int:
    """R."""
    grams, statistics = compared(style_statistics)
    return grams * channels + statistics * STATISTICS


def split_style(style: Tensor, style_statistics: str) -> tuple[Tensor, Tensor]:  # (..., R, C)
    """Its Gram (..., C, C) and its statistics (..., 2, C); without rows what is not compared."""
    rows = style.shape[-2] - STATISTICS * compared(style_statistics)[1]
    return style[..., :rows, :], style[..., rows:, :]


def style_over_frames(styles: Tensor, gram_normalize: str, style_statistics: str) -> Tensor:  # (N, T, R, C)
    """The style (N, R, C) of clips by those of their frames."""
    grams, statistics = split_style(styles, style_statistics)
    gram = grams.sum(1) if gram_normalize == "none" else grams.mean(1)
    if not statistics.shape[2]:
        return gram
    means, deviations = statistics.split(1, 2)
    moments = moments_over_frames(torch.cat([means, deviations.square()], 2))
    return torch.cat([gram, statistics_by(moments)], 1)
