"""Several runs of a chain batched into one, where GPU launches take longer than the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .batching import launches_cost
from .registry import Run
from .stages import Saved

FEW_PIXELS = 8 * 256 * 256  # in total, since batched maps take a third more memory than runs in lockstep


def are_few(runs: Sequence[Run]) -> bool:
    """Whether several runs are better batched."""
    pixels = sum(x.shape[0] * x.shape[2] * x.shape[3] for x, _, _ in runs)
    return len(runs) > 1 and pixels <= FEW_PIXELS and launches_cost(runs[0][0].device)


class JoinedRuns:
    """One run for several, their samples concatenated."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._counts = [x.shape[0] for x, _, _ in runs]
        self._taps, self._keeps = [tap for _, tap, _ in runs], [keep for _, _, keep in runs]
        x = torch.cat([x for x, _, _ in runs]).contiguous(memory_format=torch.channels_last)
        self._runs: list[Run] = [(x, self._tap, any(self._keeps))]

    def take(self) -> Run:
        """Gives up the batched run, keeping no reference."""
        return self._runs.pop()

    def saved(self, of_all: Saved) -> list[Saved]:
        """What the backward of each run needs of a stage."""
        parts = zip(*(self._parts(x) for x in (of_all.signs, of_all.codes, of_all.pooled)), self._keeps, strict=True)
        return [
            replace(of_all, signs=signs, codes=codes, pooled=pooled)
            if keep
            else replace(of_all, signs=None, codes=None, pooled=None)
            for signs, codes, pooled, keep in parts
        ]

    def _tap(self, layer: str, x: Tensor) -> bool:  # (n, C, H, W)
        # Each of them, whatever the first says.
        return any([tap(layer, part) for tap, part in zip(self._taps, x.split(self._counts), strict=True)])

    def _parts(self, x: Tensor | None) -> Sequence[Tensor | None]:  # (n, ...)
        return [None] * len(self._counts) if x is None else x.split(self._counts)
