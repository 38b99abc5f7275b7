"""The functional operators of the perceptual metrics LPIPS and DISTS; what `perceptual_ops.ops` says holds here too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from . import _checks as checks
from . import reference
from ._autograd import layer_loss
from .names import Backend, Reduction
from .ops import use_native


def lpips_terms(
    features: list[Tensor],
    targets: list[Tensor],
    channel_weights: list[Tensor],
    eps: float,
    eps_inside: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The LPIPS distance (N) and its layer values (L, N), detached, from checked arguments."""
    if use_native([*features, *targets], backend):
        loss, per_layer = layer_loss("lpips_distance", features, targets, channel_weights, eps, eps_inside)
    else:
        loss, per_layer = reference.lpips_terms(features, targets, channel_weights, eps, eps_inside)
    return loss, per_layer.detach()


def lpips_maps(
    features: list[Tensor],
    targets: list[Tensor],
    channel_weights: list[Tensor],
    eps: float,
    eps_inside: bool,
    backend: str,
) -> list[Tensor]:
    """The distance of each pixel, L x (N, 1, H, W), from checked arguments."""
    if use_native([*features, *targets], backend):
        return torch.ops.perceptual_ops.lpips_map(features, targets, channel_weights, eps, eps_inside)
    return reference.lpips_maps(features, targets, channel_weights, eps, eps_inside)


def dists_terms(
    features: list[Tensor], targets: list[Tensor], alpha: list[Tensor], beta: list[Tensor], backend: str
) -> tuple[Tensor, Tensor]:
    """The DISTS distance (N) and its layer values (L, N), detached, from checked arguments."""
    if use_native([*features, *targets], backend):
        loss, per_layer = layer_loss("dists_distance", features, targets, alpha, beta)
    else:
        loss, per_layer = reference.dists_terms(features, targets, alpha, beta)
    return loss, per_layer.detach()


@overload
def lpips_distance(
    features: Sequence[Tensor], targets: Sequence[Tensor], channel_weights: Sequence[Tensor], eps: float = ...,
    eps_inside: bool = ..., reduction: Reduction = ..., *, spatial: Literal[False] = ..., backend: Backend = ...,
) -> Tensor: ...  # fmt: skip


@overload
def lpips_distance(
    features: Sequence[Tensor], targets: Sequence[Tensor], channel_weights: Sequence[Tensor], eps: float = ...,
    eps_inside: bool = ..., reduction: Literal["none"] = ..., *, spatial: Literal[True], backend: Backend = ...,
) -> list[Tensor]: ...  # fmt: skip


@overload
def lpips_distance(
    features: Sequence[Tensor], targets: Sequence[Tensor], channel_weights: Sequence[Tensor], eps: float = ...,
    eps_inside: bool = ..., reduction: Literal["none"] = ..., *, spatial: bool, backend: Backend = ...,
) -> Tensor | list[Tensor]: ...  # fmt: skip


def lpips_distance(
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    channel_weights: Sequence[Tensor],
    eps: float = 1e-10,
    eps_inside: bool = False,
    reduction: Reduction = "none",
    *,
    spatial: bool = False,
    backend: Backend = "auto",
) -> Tensor | list[Tensor]:
    """The LPIPS distance of feature maps, all layers at once (Zhang et al. 2018, arXiv 1801.03924, eq. 1).

    For each sample the sum over the layers of mean over (H, W) of ``sum_c w_c (x_c / |x| - y_c / |y|)^2``, where
    ``|x|`` is the length of a pixel's channels.

    Args:
        features: One map (N, C, H, W) per layer; layers may differ in C, H and W.
        targets: One map per layer, shaped like the features or with a batch of 1, in their dtype. Gradients flow to
            those that require them.
        channel_weights: The w, one tensor (C,) or (1, C, 1, 1) per layer, on the device of the features; no gradient
            flows to them.
        eps: Keeps lengths from 0; above 0.
        eps_inside: Whether ``|x|`` is sqrt(eps + sum_c x_c^2), as in torchmetrics (its eps is 1e-8), instead of
            sqrt(sum_c x_c^2) + eps, as in the package lpips and in piq. There the gradient with respect to a pixel
            whose features are all 0 is defined as 0.
        reduction: "none", or "mean" or "sum" over the batch. A batch of 0 gives 0.
        spatial: Whether to return the maps that the mean over (H, W) is taken of; reduction is "none" then.
        backend: See `perceptual_ops.ops`.

    Returns:
        (N,), or a scalar for another reduction; for spatial a list of one (N, 1, H, W) per layer. fp32 (fp64 for fp64).

    Raises:
        TypeError, ValueError: Invalid argument, or channel_weights require grad.
        RuntimeError: backend="native" where the compiled operators cannot run.
    """
    eps = checks.check_lpips_settings(eps, eps_inside, reduction, spatial)
    maps = checks.check_features(features)
    target_maps = checks.check_targets(targets, maps)
    weights = checks.check_channel_weights("channel_weights", channel_weights, maps)
    if spatial:
        return lpips_maps(maps, target_maps, weights, eps, eps_inside, backend)
    loss, _ = lpips_terms(maps, target_maps, weights, eps, eps_inside, backend)
    return checks.reduce(loss, reduction)


def dists_distance(
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    alpha: Sequence[Tensor],
    beta: Sequence[Tensor],
    reduction: Reduction = "none",
    *,
    backend: Backend = "auto",
) -> Tensor:
    """The DISTS distance of feature maps, all layers at once (Ding et al. 2020, arXiv 2004.07728, eq. 8).

    For each sample the sum over layers and channels of alpha (1 - S1) + beta (1 - S2), where S1 compares the means over
    (H, W), (2 mx my + c) / (mx^2 + my^2 + c), S2 the structure, (2 cov + c) / (vx + vy + c), variances are biased and
    c = 1e-6. For alpha and beta that sum to 1 in all, that is the paper's 1 - sum of (alpha S1 + beta S2).

    Args:
        features: One map (N, C, H, W) per layer; layers may differ in C, H and W.
        targets: One map per layer, shaped like the features or with a batch of 1, in their dtype. Gradients flow to
            those that require them.
        alpha, beta: One tensor (C,) or (1, C, 1, 1) per layer, on the device of the features; no gradient flows to
            them.
        reduction: "none", or "mean" or "sum" over the batch. A batch of 0 gives 0.
        backend: See `perceptual_ops.ops`.

    Returns:
        (N,), or a scalar for another reduction; fp32 (fp64 for fp64).

    Raises:
        TypeError, ValueError: Invalid argument, or alpha or beta require grad.
        RuntimeError: backend="native" where the compiled operators cannot run.
    """
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    maps = checks.check_features(features)
    target_maps = checks.check_targets(targets, maps)
    of_means = checks.check_channel_weights("alpha", alpha, maps)
    of_structures = checks.check_channel_weights("beta", beta, maps)
    loss, _ = dists_terms(maps, target_maps, of_means, of_structures, backend)
    return checks.reduce(loss, reduction)
