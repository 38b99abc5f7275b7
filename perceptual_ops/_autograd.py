"""Fake kernels and gradients of the compiled operators (schemas: csrc/library.cpp).

A gradient of a gradient is made by differentiating the reference: the backward operators are not differentiable
themselves, and torch would pass zeros on where they stand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import _checks as checks
from . import reference

library = torch.ops.perceptual_ops


def _losses_like(features: list[Tensor]) -> tuple[Tensor, Tensor]:  # (N), (L, N)
    first, batch = features[0], features[0].shape[0]
    dtype = checks.accumulator_dtype(first)
    return first.new_empty(batch, dtype=dtype), first.new_empty((len(features), batch), dtype=dtype)


def _gram_like(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, C)
    return x.new_empty((x.shape[0], x.shape[1], x.shape[1]), dtype=checks.accumulator_dtype(x))


def _register_fakes() -> None:
    fake = torch.library.register_fake

    @fake("perceptual_ops::gram_matrix")
    def _(x, normalize):
        return _gram_like(x)

    @fake("perceptual_ops::gram_matrix_backward")
    def _(grad, x, normalize):
        return torch.empty_like(x)

    @fake("perceptual_ops::style_loss")
    def _(features, target_grams, weights, normalize, distance, parameter):
        return (*_losses_like(features), [_gram_like(x) for x in features])

    @fake("perceptual_ops::style_loss_backward")
    def _(grad, features, slopes):
        return [torch.empty_like(x) for x in features]

    @fake("perceptual_ops::feature_loss")
    def _(features, targets, weights, distance, parameter):
        return _losses_like(features)

    @fake("perceptual_ops::feature_loss_backward")
    def _(grad, features, targets, weights, distance, parameter):
        return [torch.empty_like(x) for x in features]

    @fake("perceptual_ops::feature_loss_with_gradient")
    def _(features, targets, weights, distance, parameter, grad=None):
        return (*_losses_like(features), [torch.empty_like(x) for x in features])

    @fake("perceptual_ops::loss_head")
    def _(
        features,
        style_layers,
        target_grams,
        style_weights,
        normalize,
        style_distance,
        style_parameter,
        content_layers,
        targets,
        content_weights,
        content_distance,
        content_parameter,
        grad,
    ):
        first, dtype = features[0], checks.accumulator_dtype(features[0])
        style, content = (
            first.new_empty((len(layers), first.shape[0]), dtype=dtype) for layers in (style_layers, content_layers)
        )
        return style, content, [torch.empty_like(x) for x in features]

    @fake("perceptual_ops::total_variation")
    def _(x, kind):
        return x.new_empty(x.shape[0], dtype=checks.accumulator_dtype(x))

    @fake("perceptual_ops::total_variation_backward")
    def _(grad, x, kind):
        return torch.empty_like(x)

    @fake("perceptual_ops::total_variation_with_gradient")
    def _(x, kind, grad=None):
        return x.new_empty(x.shape[0], dtype=checks.accumulator_dtype(x)), torch.empty_like(x)

    @fake("perceptual_ops::normalize_images")
    def _(images, scale, shift, dtype):
        return torch.empty_like(images, dtype=dtype, memory_format=torch.channels_last)

    @fake("perceptual_ops::normalize_images_backward")
    def _(grad, images, scale, factor, add):
        return torch.empty_like(images, dtype=checks.accumulator_dtype(grad))

    @fake("perceptual_ops::bias_relu_")
    def _(x, bias, signs):
        batch, elements = x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]
        return x.new_empty((batch, (elements + 7) // 8) if signs else (0,), dtype=torch.uint8)

    @fake("perceptual_ops::bias_relu_backward_")
    def _(grad, signs, tap, below, factor, maxima):
        return _maxima_like(grad, maxima)

    @fake("perceptual_ops::bias_relu_pool")
    def _(x, bias, relu, kind, kernel, stride, codes):
        batch, channels, *size = x.shape
        windows = [(side - kernel) // (1 if kind == "blur" else stride) + 1 for side in size]
        pooled = [(side + 1) // stride + 1 for side in windows] if kind == "blur" else windows
        like = torch.empty(
            (batch, channels, *pooled), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        if not codes or kind == "average":
            return like, x.new_empty(0, dtype=torch.uint8)
        elements = channels * windows[0] * windows[1]
        return like, x.new_empty((batch, elements if kernel > 3 else (elements + 1) // 2), dtype=torch.uint8)

    @fake("perceptual_ops::bias_relu_pool_backward_")
    def _(x, grad, codes, signs, tap, below, factor, kind, kernel, stride, maxima):
        return _maxima_like(x, maxima)


def _maxima_like(x: Tensor, wanted: bool) -> Tensor:  # (N), or (0)
    return x.new_empty(x.shape[0] if wanted else 0, dtype=checks.accumulator_dtype(x))


def _through_reference(
    value: Callable[[list[Tensor]], Tensor], inputs: list[Tensor], grad: Tensor
) -> list[Tensor | None]:
    """The gradient of value(inputs) by those that want one, itself differentiable by `inputs` and `grad`.

    One input may be computed from another, as the layers of a network are. The gradient is taken by aliases, so that it
    stops at each input and does not run on into the next: the engine that called does that.
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
        gradients = library.style_loss_backward(grad, features, slopes)
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


_LISTS = {
    "style_loss": (_style_loss_setup, _style_loss_backward),
    "feature_loss": (_feature_loss_setup, _feature_loss_backward),
}


class _LayerLoss(torch.autograd.Function):
    """An operator over lists, its tensors side by side.

    `register_autograd` takes lists apart and puts them together in Python at every call. On small maps that takes as
    long as the operator itself.
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
    """style_loss or feature_loss by name, the shorter way where nothing is traced."""
    if torch.compiler.is_compiling():
        return getattr(library, name)(features, targets, *settings)[:2]
    return _LayerLoss.apply(name, len(features), settings, *features, *targets)[:2]


def register() -> None:
    """Attaches fakes and gradients to the loaded library; once a process."""
    _register_fakes()
    for name, setup, backward in (
        ("gram_matrix", _gram_matrix_setup, _gram_matrix_backward),
        ("total_variation", _total_variation_setup, _total_variation_backward),
        *((name, *functions) for name, functions in _LISTS.items()),
    ):
        torch.library.register_autograd(f"perceptual_ops::{name}", backward, setup_context=setup)
