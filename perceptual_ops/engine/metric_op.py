"""LPIPS and DISTS of image pairs and their gradients in one pass, a chunk of pairs at a time; see perceptual_op.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import _checks as checks
from .batching import rows_of
from .custom_op import (
    TrunkInput,
    chunks_in_parts,
    empty_results,
    gradient_like,
    joined,
    keep_gradients,
    multiply_gradients,
    wanted_gradients,
    written,
)
from .masks import Mask, weighed
from .metrics import Dists, Lpips, Metric
from .modes import no_autograd
from .operator_settings import OperatorSettings
from .pair import IMAGE, Pair
from .tiled_metric import TiledMetric
from .tiled_pair import TiledPair


@dataclass(frozen=True)
class MetricSettings(OperatorSettings):
    """What a metric compares and how.

    Attributes:
        layers: Their names; `IMAGE` is the images themselves.
        metric: "lpips", whose learned weights are one per channel, or "dists": all alphas, then all betas.
        eps, eps_inside: See `perceptual_ops.lpips_distance`; "dists" has none.
    """

    layers: tuple[str, ...]
    metric: str
    eps: float = 0.0
    eps_inside: bool = False

    def of(self, learned: list[Tensor]) -> Metric:  # L x (C), or 2 L
        if self.metric == "lpips":
            return Lpips(learned, self.eps, self.eps_inside)
        if self.metric == "dists":
            return Dists(learned[: len(self.layers)], learned[len(self.layers) :])
        raise checks.unknown("metric", self.metric, ("lpips", "dists"))


def metric_loss(
    output: Tensor,  # (N, 3, H, W)
    target: Tensor,  # (N or 1, 3, H, W)
    learned: list[Tensor],  # L x (C), or 2 L
    trunk_input: TrunkInput,
    settings: MetricSettings,
    mask: Tensor | None = None,  # (N or 1, 1, H, W)
) -> Tensor:
    """The distance (N) with learned weights; gradients that are required are computed in this forward.

    LPIPS may have a mask of the pixels compared, in the accumulation dtype.
    """
    images, *wanted = wanted_gradients(output, target)
    distance, *_ = _metric_loss(output, images, learned, mask, *trunk_input.encoded(), *settings.encoded(), *wanted)
    return distance


@torch.library.custom_op(
    "perceptual_ops::metric_loss", mutates_args=(),
    schema=f"(Tensor output, Tensor target, Tensor[] learned, Tensor? mask, {TrunkInput.schema()}, "
    f"{MetricSettings.schema()}, bool output_gradient, bool target_gradient) -> (Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip
def _metric_loss(
    output: Tensor, target: Tensor, learned: list[Tensor], mask: Tensor | None, *settings: Any
) -> tuple[Tensor, ...]:
    """The distance (N), that of each layer (L, N), and its gradients with respect to output and target.

    Gradients that are not wanted are empty. A target whose gradient is wanted is one per sample. An empty batch does
    not run the network.
    """
    values = iter(settings)
    trunk_input, chosen = TrunkInput.decoded(values), MetricSettings.decoded(values)
    if not output.shape[0]:
        return empty_results(output, target, len(chosen.layers), trunk_input.wide, values)
    return trunk_input.run(_distance_and_gradients, output, target, learned, mask, *settings)


def _tiled(
    trunk_input: TrunkInput, metric: Metric, layers: Sequence[str], images: Tensor
) -> Callable[..., TiledMetric | TiledPair] | None:
    """Runs a chunk of such images, with gradients, in tiles; None where images run whole."""
    is_lpips = isinstance(metric, Lpips)
    if side := trunk_input.tile_side(images, is_lpips):
        return partial(TiledMetric, trunk_input, metric, layers, side)
    if is_lpips and (shallow := trunk_input.tiles(images, layers)):
        return partial(TiledPair, trunk_input, metric, layers, *shallow)
    return None


def _distance_and_gradients(
    output: Tensor, target: Tensor, learned: list[Tensor], mask: Tensor | None, *settings: Any
) -> tuple[Tensor, ...]:
    """What `_metric_loss` returns, of one pair or more."""
    rest = iter(settings)
    trunk_input, chosen, (output_gradient, target_gradient) = (
        TrunkInput.decoded(rest),
        MetricSettings.decoded(rest),
        rest,
    )
    measure, layers = chosen.of([weight.to(trunk_input.wide) for weight in learned]), chosen.layers
    by_output, by_target = (
        gradient_like(images, trunk_input.wide, wanted)
        for images, wanted in ((output, output_gradient), (target, target_gradient))
    )
    whole_mask = None if mask is None else Mask(mask)
    with no_autograd(output):
        if tiled := _tiled(trunk_input, measure, layers, output):
            chunks = chunks_in_parts(trunk_input, output, by_output, by_target)
            of_chunks = [
                tiled(output[rows], rows_of([target], rows)[0], *made, whole_mask and whole_mask.rows(rows)).run()
                for rows, made in chunks
            ]
            distances = joined(of_chunks, dim=1)
            return distances.sum(0), distances, by_output, by_target
        shared: dict[str, Tensor] = {}
        if target.shape[0] < output.shape[0]:  # one for all, and for all chunks
            features = [name for name in layers if name != IMAGE]
            shared = dict(zip(features, trunk_input.features(target, features)[0], strict=True))
        of_chunks, wanted = [], (output_gradient, target_gradient)
        for rows in trunk_input.chunks(output):
            metric = weighed(measure, layers, whole_mask and whole_mask.rows(rows))
            pair = Pair(trunk_input, metric, layers, output[rows], rows_of([target], rows)[0], wanted)
            values, *gradients = pair.run(dict(shared))
            of_chunks.append(values)
            by_output, by_target = (
                written(made, rows, gradient) for made, gradient in zip((by_output, by_target), gradients, strict=True)
            )
    distances = joined(of_chunks, dim=1)
    return distances.sum(0), distances, by_output, by_target


@_metric_loss.register_fake
def _(output: Tensor, target: Tensor, *others: Any) -> tuple[Tensor, ...]:
    values = iter(others[2:])
    trunk_input, chosen = TrunkInput.decoded(values), MetricSettings.decoded(values)
    return empty_results(output, target, len(chosen.layers), trunk_input.wide, values)


_metric_loss.register_autograd(multiply_gradients, setup_context=keep_gradients)
