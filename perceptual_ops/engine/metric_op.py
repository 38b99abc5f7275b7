"""LPIPS and DISTS of image pairs and their gradients in one pass, a chunk of pairs at a time; see perceptual_op.py."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks as checks
from .batching import rows_of
from .custom_op import Entry, by_hand, gradient_like, keep_gradients, layer_names, multiply_gradients
from .metrics import Dists, Lpips, Metric
from .pair import IMAGE, Pair
from .tiled_pair import TiledPair


@torch.library.custom_op("perceptual_ops::metric_loss", mutates_args=())
def metric_loss(
    output: Tensor,  # (N, 3, H, W)
    target: Tensor,  # (N or 1, 3, H, W)
    parameters: list[Tensor],  # L x (C), or 2 L
    trunk: str,
    scale: Tensor,
    shift: Tensor,
    dtype: torch.dtype,
    chunk_size: int,
    layers: str,
    metric: str,
    eps: float,
    eps_inside: bool,
    output_gradient: bool,
    target_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The distance (N), that of each layer (L, N), and its gradients by output and target.

    `metric` is "lpips", with its channel weights, or "dists", with its alpha and then its beta. Gradients that are not
    wanted are empty. A target whose gradient is wanted is one per sample.
    """
    entry, names = Entry(trunk, scale, shift, dtype, chunk_size), layer_names(layers)
    measure = _metric(metric, [number.to(entry.wide) for number in parameters], eps, eps_inside)
    by_output, by_target = (
        gradient_like(images, entry.wide, wanted)
        for images, wanted in ((output, output_gradient), (target, target_gradient))
    )
    found = []
    with by_hand(output):
        tiles = entry.tiles(output, names) if isinstance(measure, Lpips) else None
        shared: dict[str, Tensor] = {}
        if target.shape[0] < output.shape[0] and not tiles:  # one for all, and for all chunks
            features = [name for name in names if name != IMAGE]
            shared = dict(zip(features, entry.features(target, features)[0], strict=True))
        for rows in entry.chunks(output):
            pair = Pair(
                entry, measure, names, output[rows], rows_of([target], rows)[0],
                by_output[rows] if output_gradient else None,
                by_target[rows] if target_gradient else None,
            )  # fmt: skip
            found.append(TiledPair(pair, *tiles).run() if tiles else pair.run(dict(shared)))
    values = torch.cat(found, dim=1)
    return values.sum(0), values, by_output, by_target


@metric_loss.register_fake
def _(output, target, parameters, trunk, scale, shift, dtype, chunk_size, layers, metric, eps, eps_inside,
      output_gradient, target_gradient):  # fmt: skip
    wide = Entry(trunk, scale, shift, dtype, chunk_size).wide
    return (
        output.new_empty(output.shape[0], dtype=wide),
        output.new_empty((len(layer_names(layers)), output.shape[0]), dtype=wide),
        gradient_like(output, wide, output_gradient),
        gradient_like(target, wide, target_gradient),
    )


metric_loss.register_autograd(multiply_gradients, setup_context=keep_gradients)


def _metric(name: str, parameters: list[Tensor], eps: float, eps_inside: bool) -> Metric:
    if name == "lpips":
        return Lpips(parameters, eps, eps_inside)
    if name == "dists":
        layers = len(parameters) // 2
        return Dists(parameters[:layers], parameters[layers:])
    raise checks.unknown("metric", name, ("lpips", "dists"))
