"""Fake (meta) kernels of the compiled operators, for torch.compile and torch.export (csrc/library.cpp).

Strides are those of `torch.empty_like`, which the kernels follow too.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from . import _checks as checks

STATISTICS = 6  # of a channel in DISTS: the means of x, y and x - y, then their variances
CHANNEL_STATISTICS = 2  # mean and standard deviation


def _losses_like(features: list[Tensor]) -> tuple[Tensor, Tensor]:  # (N), (L, N)
    first, batch = features[0], features[0].shape[0]
    dtype = checks.accumulator_dtype(first)
    return first.new_empty(batch, dtype=dtype), first.new_empty((len(features), batch), dtype=dtype)


def _pair_like(features: list[Tensor], by_features: bool, by_targets: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients with respect to features and targets, one per sample even if one target is shared by all."""

    def like(wanted: bool) -> list[Tensor]:
        return [torch.empty_like(x) for x in features] if wanted else []

    return like(by_features), like(by_targets)


def _gram_like(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, C)
    return x.new_empty((x.shape[0], x.shape[1], x.shape[1]), dtype=checks.accumulator_dtype(x))


def _statistics_like(features: list[Tensor], count: int) -> list[Tensor]:  # L x (N, count, C)
    return [x.new_empty((x.shape[0], count, x.shape[1]), dtype=checks.accumulator_dtype(x)) for x in features]


def register_fakes(library: torch.library.Library) -> None:
    """Registers the fake kernels, for as long as the library lives."""
    fake = partial(torch.library.register_fake, lib=library)

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
    def _(grad, features, slopes, others):
        return [torch.empty_like(x) for x in features]

    @fake("perceptual_ops::channel_statistics")
    def _(features):
        return _statistics_like(features, CHANNEL_STATISTICS)

    @fake("perceptual_ops::channel_statistics_backward")
    def _(grad, features, statistics, slopes, pixels, others):
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

    _register_total_variation(library)
    _register_metrics(library)
    _register_activation(library)


def _register_total_variation(library: torch.library.Library) -> None:
    fake = partial(torch.library.register_fake, lib=library)

    @fake("perceptual_ops::total_variation")
    def _(x, kind):
        return x.new_empty(x.shape[0], dtype=checks.accumulator_dtype(x))

    @fake("perceptual_ops::total_variation_backward")
    def _(grad, x, kind):
        return torch.empty_like(x)

    @fake("perceptual_ops::total_variation_with_gradient")
    def _(x, kind, grad=None):
        return x.new_empty(x.shape[0], dtype=checks.accumulator_dtype(x)), torch.empty_like(x)


def _register_metrics(library: torch.library.Library) -> None:
    fake = partial(torch.library.register_fake, lib=library)

    @fake("perceptual_ops::lpips_distance")
    def _(features, targets, channel_weights, eps, eps_inside):
        return _losses_like(features)

    @fake("perceptual_ops::lpips_distance_backward")
    def _(grad, features, targets, channel_weights, eps, eps_inside, by_features, by_targets):
        return _pair_like(features, by_features, by_targets)

    @fake("perceptual_ops::lpips_distance_with_gradient")
    def _(features, targets, channel_weights, eps, eps_inside, grad, by_features, by_targets):
        return (*_losses_like(features), *_pair_like(features, by_features, by_targets))

    @fake("perceptual_ops::lpips_map")
    def _(features, targets, channel_weights, eps, eps_inside):
        return [
            x.new_empty((x.shape[0], 1, x.shape[2], x.shape[3]), dtype=checks.accumulator_dtype(x)) for x in features
        ]

    @fake("perceptual_ops::lpips_map_backward")
    def _(grads, features, targets, channel_weights, eps, eps_inside, by_features, by_targets):
        return _pair_like(features, by_features, by_targets)

    @fake("perceptual_ops::dists_distance")
    def _(features, targets, alpha, beta):
        return (*_losses_like(features), _statistics_like(features, STATISTICS))

    @fake("perceptual_ops::dists_distance_backward")
    def _(grad, features, targets, alpha, beta, statistics, by_features, by_targets):
        return _pair_like(features, by_features, by_targets)


def _register_activation(library: torch.library.Library) -> None:
    fake = partial(torch.library.register_fake, lib=library)

    @fake("perceptual_ops::normalize_images")
    def _(images, scale, shift, dtype):
        return torch.empty_like(images, dtype=dtype, memory_format=torch.channels_last)

    @fake("perceptual_ops::normalize_images_backward")
    def _(grad, images, scale, factor, add):
        return torch.empty_like(images, dtype=checks.accumulator_dtype(grad))

    @fake("perceptual_ops::bias_relu_")
    def _(x, bias, signs):
        return _signs_like(x, signs)

    @fake("perceptual_ops::bias_relu_backward_")
    def _(grad, signs, tap, below, factor, maxima):
        return None

    @fake("perceptual_ops::bias_relu_pool")
    def _(x, bias, relu, kind, kernel, stride, codes):
        return _pooled_like(x, kind, kernel, stride, codes)

    @fake("perceptual_ops::bias_relu_pool_")
    def _(x, bias, kind, kernel, stride, keep):
        pooled, codes = _pooled_like(x, kind, kernel, stride, keep)
        return pooled, _signs_like(x, keep), codes

    @fake("perceptual_ops::bias_relu_pool_backward_")
    def _(x, grad, codes, signs, tap, below, factor, kind, kernel, stride, maxima):
        return None

    @fake("perceptual_ops::l2_pool")
    def _(x):
        batch, channels, height, width = x.shape
        shape = (batch, channels, (height - 1) // 2 + 1, (width - 1) // 2 + 1)
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)

    @fake("perceptual_ops::l2_pool_backward")
    def _(grad, x):
        return torch.empty_like(x, memory_format=torch.channels_last)

    @fake("perceptual_ops::loss_scale")
    def _(scale, bound, grown, spread, taps, grows, room):
        known = taps[0] if bound is None else bound
        return known.new_empty((4, known.shape[0]))


def _signs_like(x: Tensor, wanted: bool) -> Tensor:  # (N, C, H, W) -> (N, ceil(C H W / 8)), or (0)
    batch, elements = x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]
    return x.new_empty((batch, (elements + 7) // 8) if wanted else (0,), dtype=torch.uint8)


def _pooled_like(x: Tensor, kind: str, kernel: int, stride: int, codes: bool) -> tuple[Tensor, Tensor]:
    """(N, C, H', W'), and the codes of the windows (N, bytes), or (0)."""
    checks.check_choice("kind", kind, ("max", "average", "blur"))
    batch, channels, *size = x.shape
    windows = [(side - kernel) // (1 if kind == "blur" else stride) + 1 for side in size]
    pooled = [(side + 1) // stride + 1 for side in windows] if kind == "blur" else windows
    like = torch.empty((batch, channels, *pooled), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if not codes or kind == "average":
        return like, x.new_empty(0, dtype=torch.uint8)
    elements = channels * windows[0] * windows[1]
    return like, x.new_empty((batch, elements if kernel > 3 else (elements + 1) // 2), dtype=torch.uint8)
