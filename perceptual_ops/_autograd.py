"""Gradients of the compiled operators (schemas: csrc/library.cpp).

Double backward differentiates the reference: the backward operators are not differentiable themselves, and torch would
silently return zeros for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import reference
from ._fakes import register_fakes

library = torch.ops.perceptual_ops


def _through_reference(
    value: Callable[[list[Tensor]], Tensor | list[Tensor]], inputs: list[Tensor], grad: Tensor | list[Tensor]
) -> list[Tensor | None]:
    """The gradient of value(inputs) with respect to inputs that require one, differentiable in `inputs` and `grad`.

    One input may be computed from another, as the layers of a network are. The gradient is taken with respect to
    aliases, so that it stops at each input; the calling autograd engine continues from there.
    """
    aliases = [x.view_as(x) for x in inputs]
    wanted = [i for i, x in enumerate(inputs) if x.requires_grad]
    found: list[Tensor | None] = [None] * len(inputs)
    gradients = torch.autograd.grad(value(aliases), [aliases[i] for i in wanted], grad, create_graph=True)
    for i, gradient in zip(wanted, gradients, strict=True):
        found[i] = gradient
    return found


def _gram_matrix_setup(ctx, inputs, output):
    x, ctx.normalize = inputs
    ctx.save_for_backward(x)


def _gram_matrix_backward(ctx, grad):
    (x,) = ctx.saved_tensors
    if torch.is_grad_enabled():
        return *_through_reference(lambda xs: reference.raw_gram_matrix(xs[0], ctx.normalize), [x], grad), None
    return library.gram_matrix_backward(grad, x, ctx.normalize), None


def _channel_statistics_setup(ctx, inputs, output):
    (features,) = inputs
    ctx.save_for_backward(*features, *output)


def _channel_statistics_backward(ctx, grads):
    saved = ctx.saved_tensors  # once: checkpointing refuses a second look
    layers = len(saved) // 2
    features, statistics = list(saved[:layers]), list(saved[layers:])
    if torch.is_grad_enabled():
        return _through_reference(lambda xs: [reference.raw_channel_statistics(x) for x in xs], features, grads)
    pixels = [x.shape[2] * x.shape[3] for x in features]
    return library.channel_statistics_backward(None, features, statistics, grads, pixels, [None] * layers)


def _style_loss_setup(ctx, inputs, output):
    features, target_grams, ctx.weights, ctx.normalize, ctx.distance, ctx.parameter = inputs
    _, per_layer, slopes = output
    ctx.mark_non_differentiable(per_layer, *slopes)
    ctx.layers = len(features)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*features, *target_grams, *slopes)


def _style_loss_backward(ctx, grad, *_non_differentiable):
    layers = ctx.layers
    if grad is None:
        return [None] * layers, [None] * layers, None, None, None, None
    saved = ctx.saved_tensors
    features, grams, slopes = list(saved[:layers]), list(saved[layers : 2 * layers]), list(saved[2 * layers :])
    if torch.is_grad_enabled():

        def value(maps):
            terms = (maps, grams, ctx.weights, ctx.normalize, ctx.distance, ctx.parameter)
            return reference.style_terms(*terms)[0]

        gradients = _through_reference(value, features, grad)
    else:
        gradients = library.style_loss_backward(grad, features, slopes, [None] * layers)
    return gradients, [None] * layers, None, None, None, None


def _feature_loss_setup(ctx, inputs, output):
    features, targets, ctx.weights, ctx.distance, ctx.parameter = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.layers = len(features)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*features, *targets)


def _feature_loss_backward(ctx, grad, *_non_differentiable):
    if grad is None:
        return [None] * ctx.layers, [None] * ctx.layers, None, None, None
    saved = ctx.saved_tensors  # once: checkpointing refuses a second look
    features, targets = list(saved[: ctx.layers]), list(saved[ctx.layers :])
    if torch.is_grad_enabled():

        def value(maps):
            terms = (maps[: ctx.layers], maps[ctx.layers :], ctx.weights, ctx.distance, ctx.parameter)
            return reference.feature_terms(*terms)[0]

        found = _through_reference(value, [*features, *targets], grad)
        return found[: ctx.layers], found[ctx.layers :], None, None, None
    gradients = library.feature_loss_backward(grad, features, targets, ctx.weights, ctx.distance, ctx.parameter)
    # d(x - y) depends on the error alone: the targets' gradient is the features', negated, summed where one target
    # served the whole batch.
    of_targets = [
        (-dx if y.shape[0] == dx.shape[0] else -dx.sum(0, keepdim=True)) if y.requires_grad else None
        for dx, y in zip(gradients, targets, strict=True)
    ]
    return gradients, of_targets, None, None, None


def _total_variation_setup(ctx, inputs, output):
    x, ctx.kind = inputs
    ctx.save_for_backward(x)


def _total_variation_backward(ctx, grad):
    (x,) = ctx.saved_tensors
    if torch.is_grad_enabled():
        return *_through_reference(lambda xs: reference.variation(xs[0], ctx.kind), [x], grad), None
    return library.total_variation_backward(grad, x, ctx.kind), None


def _summed_like(gradients: list[Tensor], targets: list[Tensor]) -> list[Tensor | None]:
    """Gradients of each sample, summed where one target served the whole batch."""
    return [
        (dy if y.shape[0] == dy.shape[0] else dy.sum(0, keepdim=True)) if y.requires_grad else None
        for dy, y in zip(gradients, targets, strict=True)
    ]


def _pair_gradients(
    features: list[Tensor],
    targets: list[Tensor],
    backward: Callable[..., Any],
    value: Callable[..., Any],
    grad: Tensor | list[Tensor],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of a metric with respect to both lists, each computed only if one of the list requires it."""
    layers = len(features)
    if torch.is_grad_enabled():
        gradients = _through_reference(lambda maps: value(maps[:layers], maps[layers:]), [*features, *targets], grad)
        return gradients[:layers], gradients[layers:]
    wanted = [any(x.requires_grad for x in maps) for maps in (features, targets)]
    by_features, by_targets = backward(*wanted)
    none: list[Tensor | None] = [None] * layers
    return (by_features if wanted[0] else none), (_summed_like(by_targets, targets) if wanted[1] else none)


def _lpips_distance_setup(ctx, inputs, output):
    features, targets, channel_weights, *ctx.settings = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.layers = len(features)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*features, *targets, *channel_weights)


def _lpips_distance_backward(ctx, grad, *_non_differentiable):
    none = [None] * ctx.layers
    if grad is None:
        return none, none, none, None, None
    features, targets, weights = _in_thirds(ctx.saved_tensors)
    gradients = _pair_gradients(
        features, targets,
        lambda *wanted: library.lpips_distance_backward(grad, features, targets, weights, *ctx.settings, *wanted),
        lambda xs, ys: reference.lpips_terms(xs, ys, weights, *ctx.settings)[0],
        grad,
    )  # fmt: skip
    return *gradients, none, None, None


def _lpips_map_setup(ctx, inputs, output):
    features, targets, channel_weights, *ctx.settings = inputs
    ctx.save_for_backward(*features, *targets, *channel_weights)


def _lpips_map_backward(ctx, grads):
    features, targets, weights = _in_thirds(ctx.saved_tensors)
    gradients = _pair_gradients(
        features, targets,
        lambda *wanted: library.lpips_map_backward(grads, features, targets, weights, *ctx.settings, *wanted),
        lambda xs, ys: reference.lpips_maps(xs, ys, weights, *ctx.settings),
        grads,
    )  # fmt: skip
    return *gradients, [None] * len(features), None, None


def _dists_distance_setup(ctx, inputs, output):
    features, targets, alpha, beta = inputs
    _, per_layer, statistics = output
    ctx.mark_non_differentiable(per_layer, *statistics)
    ctx.layers = len(features)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*features, *targets, *alpha, *beta, *statistics)


def _dists_distance_backward(ctx, grad, *_non_differentiable):
    none, layers = [None] * ctx.layers, ctx.layers
    if grad is None:
        return none, none, none, none
    saved = ctx.saved_tensors
    features, targets, alpha, beta, statistics = (list(saved[i * layers : (i + 1) * layers]) for i in range(5))
    gradients = _pair_gradients(
        features, targets,
        lambda *wanted: library.dists_distance_backward(
            grad, features, targets, alpha, beta, statistics, *wanted
        ),
        lambda xs, ys: reference.dists_terms(xs, ys, alpha, beta)[0],
        grad,
    )  # fmt: skip
    return *gradients, none, none


def _in_thirds(saved: tuple[Tensor, ...]) -> tuple[list[Tensor], ...]:
    layers = len(saved) // 3
    return tuple(list(saved[i * layers : (i + 1) * layers]) for i in range(3))


_LISTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "style_loss": (_style_loss_setup, _style_loss_backward),
    "feature_loss": (_feature_loss_setup, _feature_loss_backward),
    "lpips_distance": (_lpips_distance_setup, _lpips_distance_backward),
    "dists_distance": (_dists_distance_setup, _dists_distance_backward),
}


class _LayerLoss(torch.autograd.Function):
    """An operator over lists of tensors, flattened.

    `register_autograd` flattens and rebuilds lists in Python at every call, which on small maps takes as long as the
    operator itself.
    """

    @staticmethod
    def forward(ctx, name, layers, settings, *tensors):
        ctx.name = name
        features, targets = tensors[:layers], tensors[layers:]
        loss, per_layer, *slopes = result = getattr(library, name)(features, targets, *settings)
        _LISTS[name][0](ctx, (features, targets, *settings), result)
        return (loss, per_layer, *(slopes[0] if slopes else ()))

    @staticmethod
    def backward(ctx, grad, *_):
        of_features, of_targets, *_ = _LISTS[ctx.name][1](ctx, grad)
        return None, None, None, *of_features, *of_targets


def layer_loss(
    name: str, features: list[Tensor], targets: list[Tensor], *settings: object
) -> tuple[Tensor, Tensor]:  # (N), (L, N)
    """Calls an operator over lists by name, by the faster path unless something traces."""
    if torch.compiler.is_compiling():
        return getattr(library, name)(features, targets, *settings)[:2]
    return _LayerLoss.apply(name, len(features), settings, *features, *targets)[:2]


def register(registrations: torch.library.Library) -> None:
    """Registers fake kernels and gradients, for as long as the library of these registrations lives."""
    register_fakes(registrations)
    for name, setup, backward in (
        ("gram_matrix", _gram_matrix_setup, _gram_matrix_backward),
        ("channel_statistics", _channel_statistics_setup, _channel_statistics_backward),
        ("total_variation", _total_variation_setup, _total_variation_backward),
        ("lpips_map", _lpips_map_setup, _lpips_map_backward),
        *((name, *functions) for name, functions in _LISTS.items()),
    ):
        torch.library.register_autograd(f"perceptual_ops::{name}", backward, setup_context=setup, lib=registrations)
