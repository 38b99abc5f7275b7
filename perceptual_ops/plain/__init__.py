"""The compiled operators in plain PyTorch: the lean engine's fallback.

feature_maps.py, metrics.py and activations.py have one function per operator, with its arguments and results, dtypes
and strides (csrc/library.cpp); their schemas are in _schemas.py. They trust their arguments, which the engine and `ops`
have checked. As operators they run below autograd, and without the caller's autocast, which would reduce the precision
of products and convolutions in them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch

from .._native import constant_when_compiled
from .._schemas import SCHEMAS
from . import activations, feature_maps, metrics

OPERATORS: tuple[Callable[..., Any], ...] = (
    feature_maps.gram_matrix,
    feature_maps.gram_matrix_backward,
    feature_maps.style_loss,
    feature_maps.style_loss_backward,
    feature_maps.channel_statistics,
    feature_maps.channel_statistics_backward,
    feature_maps.feature_loss,
    feature_maps.feature_loss_backward,
    feature_maps.feature_loss_with_gradient,
    feature_maps.total_variation,
    feature_maps.total_variation_backward,
    feature_maps.total_variation_with_gradient,
    metrics.lpips_distance,
    metrics.lpips_distance_backward,
    metrics.lpips_distance_with_gradient,
    metrics.lpips_map,
    metrics.lpips_map_backward,
    metrics.dists_distance,
    metrics.dists_distance_backward,
    activations.normalize_images,
    activations.normalize_images_backward,
    activations.bias_relu_,
    activations.bias_relu_backward_,
    activations.bias_relu_pool,
    activations.bias_relu_pool_,
    activations.bias_relu_pool_backward_,
    activations.l2_pool,
    activations.l2_pool_backward,
    activations.loss_scale,
)

HOLDER = "plain_library"  # of torch's namespace of the operators, which outlives a copy of this package


def _replace_library() -> None:
    """Ends the operators of a copy imported before in this process, as by importlib.reload, and begins those of this.

    Torch refuses to define an operator twice, and its functions keep that copy alive.
    """
    if former := vars(torch.ops.perceptual_ops).get(HOLDER):
        former._destroy()  # no public way
    _replace_once.cache_clear()
    setattr(torch.ops.perceptual_ops, HOLDER, torch.library.Library("perceptual_ops", "FRAGMENT"))


def _library() -> torch.library.Library:
    found: torch.library.Library = getattr(torch.ops.perceptual_ops, HOLDER)
    return found


def _without_autocast(operator: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(operator)
    def run(*arguments: Any) -> Any:
        with torch._C._DisableAutocast():  # on every device
            return operator(*arguments)

    return run


def _implement(dispatch_key: str, **settings: bool) -> None:
    for operator in OPERATORS:
        _library().impl(operator.__name__, _without_autocast(operator), dispatch_key, **settings)


def serve(defines: bool) -> torch.library.Library:
    """Registers these operators for all tensors without a compiled one.

    Args:
        defines: Whether they are declared, too, as in a process without the compiled library.

    Returns:
        What holds the registrations; a copy of this package imported after it ends them.
    """
    _replace_library()
    if defines:
        for operator in OPERATORS:
            _library().define(f"{operator.__name__}{SCHEMAS[operator.__name__]}")
    _implement("CompositeExplicitAutograd")
    return _library()


@constant_when_compiled
def replaces_compiled(dispatch_key: str) -> bool:
    """Replaces the compiled operators of a dispatch key: "CUDA", on GPUs that those do not support."""
    _replace_once(dispatch_key)
    return True


@cache
def _replace_once(dispatch_key: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that operators are replaced, which is intended
        _implement(dispatch_key, allow_override=True)
