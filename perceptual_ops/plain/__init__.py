"""The compiled library's operators in plain PyTorch: what the lean engine runs where that file does not.

feature_maps.py, metrics.py and activations.py have one function per operator, with its arguments and results, dtypes
and strides (csrc/library.cpp). They trust their arguments, which the engine and `ops` have checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from .._native import constant_when_compiled
from . import activations, feature_maps, metrics

_PAIR = "Tensor[] features, Tensor[] targets"
_DISTANCE = "float[] weights, str distance, float parameter"
_LPIPS = f"{_PAIR}, Tensor[] channel_weights, float eps, bool eps_inside"
_WANTED = "bool by_features, bool by_targets"
_POOL = "str kind, int kernel, int stride"
SCHEMAS: dict[Callable[..., Any], str] = {
    feature_maps.gram_matrix: "(Tensor x, str normalize) -> Tensor",
    feature_maps.gram_matrix_backward: "(Tensor grad, Tensor x, str normalize) -> Tensor",
    feature_maps.style_loss: "(Tensor[] features, Tensor[] target_grams, float[] weights, str normalize, str distance, "
    "float parameter) -> (Tensor, Tensor, Tensor[])",
    feature_maps.style_loss_backward: "(Tensor? grad, Tensor[] features, Tensor[] slopes, Tensor?[] others) "
    "-> Tensor[]",
    feature_maps.channel_statistics: "(Tensor[] features) -> Tensor[]",
    feature_maps.channel_statistics_backward: "(Tensor? grad, Tensor[] features, Tensor[] statistics, "
    "Tensor[] slopes, int[] pixels, Tensor?[] others) -> Tensor[]",
    feature_maps.feature_loss: f"({_PAIR}, {_DISTANCE}) -> (Tensor, Tensor)",
    feature_maps.feature_loss_backward: f"(Tensor grad, {_PAIR}, {_DISTANCE}) -> Tensor[]",
    feature_maps.feature_loss_with_gradient: f"({_PAIR}, {_DISTANCE}, Tensor? grad=None) -> (Tensor, Tensor, Tensor[])",
    feature_maps.total_variation: "(Tensor x, str kind) -> Tensor",
    feature_maps.total_variation_backward: "(Tensor grad, Tensor x, str kind) -> Tensor",
    feature_maps.total_variation_with_gradient: "(Tensor x, str kind, Tensor? grad=None) -> (Tensor, Tensor)",
    metrics.lpips_distance: f"({_LPIPS}) -> (Tensor, Tensor)",
    metrics.lpips_distance_backward: f"(Tensor grad, {_LPIPS}, {_WANTED}) -> (Tensor[], Tensor[])",
    metrics.lpips_distance_with_gradient: f"({_LPIPS}, Tensor? grad, {_WANTED}) "
    "-> (Tensor, Tensor, Tensor[], Tensor[])",
    metrics.lpips_map: f"({_LPIPS}) -> Tensor[]",
    metrics.lpips_map_backward: f"(Tensor[] grads, {_LPIPS}, {_WANTED}) -> (Tensor[], Tensor[])",
    metrics.dists_distance: f"({_PAIR}, Tensor[] alpha, Tensor[] beta) -> (Tensor, Tensor, Tensor[])",
    metrics.dists_distance_backward: f"(Tensor grad, {_PAIR}, Tensor[] alpha, Tensor[] beta, Tensor[] statistics, "
    f"{_WANTED}) -> (Tensor[], Tensor[])",
    activations.normalize_images: "(Tensor images, Tensor scale, Tensor shift, ScalarType dtype) -> Tensor",
    activations.normalize_images_backward: "(Tensor grad, Tensor images, Tensor scale, Tensor? factor, Tensor? add) "
    "-> Tensor",
    activations.bias_relu_: "(Tensor(a!) x, Tensor? bias, bool signs) -> Tensor",
    activations.bias_relu_backward_: "(Tensor(a!) grad, Tensor signs, Tensor? tap, Tensor? below, Tensor? factor, "
    "Tensor(b!)? maxima) -> ()",
    activations.bias_relu_pool: f"(Tensor x, Tensor? bias, bool relu, {_POOL}, bool codes) -> (Tensor, Tensor)",
    activations.bias_relu_pool_: f"(Tensor(a!) x, Tensor? bias, {_POOL}, bool keep) -> (Tensor, Tensor, Tensor)",
    activations.bias_relu_pool_backward_: "(Tensor(a!) x, Tensor grad, Tensor? codes, Tensor? signs, bool tap, "
    f"Tensor? below, Tensor? factor, {_POOL}, Tensor(b!)? maxima) -> ()",
    activations.l2_pool: "(Tensor x) -> Tensor",
    activations.l2_pool_backward: "(Tensor grad, Tensor x) -> Tensor",
    activations.loss_scale: "(Tensor? scale, Tensor? bound, Tensor? grown, float spread, Tensor[] taps, "
    "Tensor? grows, float room) -> Tensor",
}

_fragment = torch.library.Library("perceptual_ops", "FRAGMENT")


def define() -> None:
    """Declares the operators, in a process where the compiled file does not."""
    for operator, schema in SCHEMAS.items():
        _fragment.define(f"{operator.__name__}{schema}")


def serve() -> None:
    """Runs the operators here for all tensors that no compiled one serves."""
    for operator in SCHEMAS:
        _fragment.impl(operator.__name__, operator, "CompositeExplicitAutograd")


@constant_when_compiled
@cache
def replace_compiled(dispatch_key: str) -> None:
    """Runs the operators here for "CUDA" tensors, on a device that the compiled ones do not know."""
    for operator in SCHEMAS:
        _fragment.impl(operator.__name__, operator, dispatch_key, allow_override=True)
