"""The loss of images sharded by rows over ranks, and its gradient with respect to this rank's band."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..engine.batching import rows_of
from ..engine.custom_op import TrunkInput, refuse_second_derivative, times_upstream, wanted_gradients
from ..engine.modes import no_autograd
from ..engine.tile_parts import Share
from ..engine.tiled_loss import TiledLoss
from ..engine.tiled_metric import TiledMetric
from ..losses.gradients import in_tiles
from ..losses.metric import MetricLoss
from ..losses.perceptual import PerceptualLoss
from .agreement import Report
from .bands import Banded, Bands
from .parts import Parts
from .ranks import Ranks


def loss_of_bands(
    criterion: PerceptualLoss | MetricLoss,
    trunk_input: TrunkInput,
    side: int,
    parts: Parts,
    ranks: Ranks,
    reports: Sequence[Report],
) -> Tensor:  # (N)
    """The loss of the whole images; the gradient with respect to this rank's band is computed in the forward."""
    factor, shift = criterion.range_map()
    output, target = (_mapped(x, factor, shift, trunk_input.wide) for x in (parts.output, parts.target))
    assert output is not None, "there is one"
    target, *wanted = wanted_gradients(output, target)
    rows = _rows_of(reports)
    shape = torch.Size([*output.shape[:2], max(band.stop for band in rows), output.shape[3]])
    criterion.check_size("output", shape, criterion.network_layers)
    whole = output.new_empty(()).expand(shape)
    plan = _plan(criterion, trunk_input, side, whole, target, wanted)
    bands = Bands(ranks, rows, [plan.reads(band) for band in rows])
    plan.share = Share(bands.own, ranks.rank == 0, ranks.gathered)
    with no_autograd(output):
        images = bands.with_halo(output), None if target is None else bands.with_halo(target)
        made = [
            bands.zeros(x, trunk_input.wide) if x is not None and is_wanted else None
            for x, is_wanted in zip((output, target), wanted, strict=True)
        ]
        losses = [_of_samples(plan, samples, *images, *made).loss() for samples in trunk_input.chunks(whole)]
        gradients = [None if gradient is None else bands.returned(gradient) for gradient in made]
    loss: Tensor = _MadeInForward.apply(output, target, torch.cat(losses), *gradients)
    return loss


def _rows_of(reports: Sequence[Report]) -> list[slice]:
    """The rows of each rank's band, by rank."""
    starts = itertools.accumulate((report.length for report in reports), initial=0)
    return [slice(*rows) for rows in itertools.pairwise(starts)]


def _plan(
    criterion: PerceptualLoss | MetricLoss,
    trunk_input: TrunkInput,
    side: int,
    whole: Tensor,  # (N, 3, H, W), of no memory
    target: Tensor | None,  # (N or 1, 3, h, W)
    wanted: Sequence[bool],
) -> TiledLoss | TiledMetric:
    """The tiled loss, which knows the rows it reads before it has the images."""
    whole_target = None if target is None else whole[: target.shape[0]]
    by_output, by_target = (whole if is_wanted else None for is_wanted in wanted)
    return in_tiles(criterion, trunk_input, side, whole, whole_target, by_output, by_target)


def _of_samples(
    plan: TiledLoss | TiledMetric,
    samples: slice,
    output: Banded,
    target: Banded | None,
    by_output: Banded | None,
    by_target: Banded | None,
) -> TiledLoss | TiledMetric:
    """The plan for some of the batch."""
    target, by_output, by_target = (None if x is None else x.samples(samples) for x in (target, by_output, by_target))
    own: dict[str, Any] = {"by_output": by_output, "by_target": by_target, "target": target}
    if isinstance(plan, TiledLoss):
        own |= {"contents": rows_of(plan.contents, samples), "grams": rows_of(plan.grams, samples)}
    return replace(plan, output=output.samples(samples), **own)


def _mapped(images: Tensor | None, factor: float, shift: float, wide: torch.dtype) -> Tensor | None:
    return images if images is None or (factor == 1 and not shift) else images.to(wide) * factor + shift


class _MadeInForward(torch.autograd.Function):
    """The loss (N), whose gradients with respect to output and target are known."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,  # (N, 3, h, W)
        target: Tensor | None,  # (N or 1, 3, h, W)
        loss: Tensor,  # (N)
        by_output: Tensor | None,  # (N, 3, h, W)
        by_target: Tensor | None,  # (N, 3, h, W)
    ) -> Tensor:
        ctx.save_for_backward(by_output, by_target)
        ctx.dtypes = output.dtype, None if target is None else target.dtype
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative('run the whole image in one process, with engine="autograd",')
        found = [
            None if made is None else times_upstream(made, grad, dtype)
            for made, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *found, None, None, None
