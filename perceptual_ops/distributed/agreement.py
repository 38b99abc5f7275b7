"""Ranks compare their arguments before a call, so that a mismatch is an error on all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._autocast import autocast_dtype
from .._checks import widest
from ..losses.metric import MetricLoss
from ..losses.perceptual import PerceptualLoss

ALIKE = 1e-2  # relative tolerance of cached targets' norms, which may be rounded differently on another device


@dataclass(frozen=True)
class Report:
    """What one rank reports.

    Attributes:
        length: Rows of its band, or frames.
        facts: Values that must be equal on every rank, by name.
        lengths: Norms of its cached targets, which must be nearly equal.
        error: Why it cannot take part.
    """

    length: int = 0
    facts: Mapping[str, object] = field(default_factory=dict)
    lengths: Sequence[float] = ()
    error: str = ""


def check_alike(reports: Sequence[Report]) -> None:
    """Raises the same ValueError on every rank where one of them differs from the first."""
    for rank, report in enumerate(reports):
        if report.error:
            raise ValueError(f"rank {rank}: {report.error}")
    first, *others = reports
    for rank, report in enumerate(others, start=1):
        for name in {**first.facts, **report.facts}:
            expected, came = first.facts.get(name), report.facts.get(name)
            if came != expected:
                raise ValueError(
                    f"rank {rank}: expected {name} {expected!r}, as on rank 0; got {came!r}; every rank of the group "
                    "calls the same loss with its part of the same images"
                )
        if not all(math.isclose(a, b, rel_tol=ALIKE) for a, b in zip(first.lengths, report.lengths, strict=True)):
            raise ValueError(
                f"rank {rank}: expected the kept targets of rank 0, got others; call set_style and set_content with "
                "the same images on every rank"
            )


def facts_of_images(images: Mapping[str, Tensor | None], dim: int) -> dict[str, object]:
    """What shards of the same images have in common; they are sharded along `dim`."""
    facts: dict[str, object] = {}
    for name, x in images.items():
        if x is None:
            facts[name] = None
            continue
        shape = ", ".join("*" if i == dim else str(size) for i, size in enumerate(x.shape))
        wanted = "with" if torch.is_grad_enabled() and x.requires_grad else "without"
        facts[name] = f"({shape}), {x.dtype}, on {x.device.type}, {wanted} gradient"
    return facts


def facts_of_loss(criterion: PerceptualLoss | MetricLoss) -> dict[str, object]:
    """What makes losses the same."""
    facts = {"criterion": type(criterion).__name__, **criterion.identity()}
    device = criterion.device.type
    facts["autocast"] = autocast_dtype(device)
    return facts | {name: getattr(criterion, name) for name in ("reduction", "engine", "chunk_size", "tile_size")}


@dataclass
class KeptLengths:
    """Norms of cached targets, for which the host waits once."""

    _targets: Sequence[Tensor] = ()
    _lengths: Sequence[float] = ()

    def of(self, targets: Sequence[Tensor]) -> Sequence[float]:
        """The norm of each target."""
        if len(targets) != len(self._targets) or any(a is not b for a, b in zip(targets, self._targets, strict=True)):
            self._targets = targets
            self._lengths = [torch.linalg.vector_norm(x, dtype=widest(x.device)).item() for x in targets]
        return self._lengths
