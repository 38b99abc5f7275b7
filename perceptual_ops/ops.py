"""The functional operators: fused, differentiable, on CPU and CUDA.

All take feature maps (N, C, H, W) in fp32, fp16, bf16 or fp64. NCHW and NHWC (`channels_last`) maps are read in
place, other strides are copied. Grams, sums and losses are fp32 (fp64 for fp64), summed in a fixed order: the same
input gives the same bits every time, on one machine with one number of threads. Gradients have the dtype and strides of
the maps. autocast changes nothing here; fp32 matrix products on the CPU are torch's, so they follow
`torch.set_float32_matmul_precision`.

`backend` is "auto" (the compiled operators, or plain PyTorch with one RuntimeWarning where they do not serve the
input), "native" (insist on them: RuntimeError) or "reference" (`perceptual_ops.reference`). Under torch.export and
torch.jit.trace "auto" is the reference: the program then runs where this library is not installed. In plain PyTorch the
functions here are the reference, under autograd; losses keep their lean engine (`perceptual_ops.plain`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _checks as checks
from . import plain, reference
from ._autograd import layer_loss, register
from ._native import fall_back, native
from .names import Backend, Distance, FeatureDistance, GramNormalization, Reduction, Variation

register(plain.serve(defines=not native.loaded))


def use_native(inputs: Sequence[Tensor], backend: str) -> bool:
    """Whether the compiled operators run for `inputs`; raises or warns, as `backend` says, where they cannot."""
    if not use_operators(backend):
        return False
    refusal = native.refusal(inputs[0].device)
    if not refusal and not torch.compiler.is_compiling() and any(map(has_tangent, inputs)):
        refusal = "the compiled operators have no forward-mode derivative"
    return not _falls_back(refusal, backend)


def use_engine(device: torch.device, backend: str) -> bool:
    """Whether the lean engine runs on a device: with the compiled operators, or with plain ones as a fallback.

    Warns or raises on a fallback, as `backend` says. Plain operators replace those of CUDA for all GPUs or for none:
    beside a supported GPU, an unsupported one uses ordinary autograd.
    """
    if not use_operators(backend):
        return False
    if not _falls_back(native.refusal(device), backend) or device.type != "cuda" or native.cuda_reason:
        return True
    return not native.serves_a_gpu() and plain.replaces_compiled("CUDA")


def use_operators(backend: str) -> bool:
    """Whether `backend` asks for operators rather than the reference."""
    checks.check_choice("backend", backend, checks.BACKENDS)
    return backend != "reference" and not (backend == "auto" and makes_program())


def _falls_back(refusal: str, backend: str) -> bool:
    """Whether plain PyTorch takes the place of compiled operators that do not run, for a reason."""
    if refusal and backend == "native":
        raise RuntimeError(f'backend: expected "auto" or "reference", got "native", which cannot run: {refusal}')
    if refusal:
        fall_back(refusal)
    return bool(refusal)


def _compiles_without_dynamo() -> bool:
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


# Before torch 2.7 an export by Dynamo (strict=True) does not show.
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", _compiles_without_dynamo)


def makes_program() -> bool:
    """Whether torch.export or torch.jit.trace is tracing, whose programs must run without this library."""
    return is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def grad_mode(enabled: bool) -> AbstractContextManager[object]:
    """torch.set_grad_enabled; a no-op in a program, whose caller decides."""
    return contextlib.nullcontext() if makes_program() else torch.set_grad_enabled(enabled)


def has_tangent(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None


def gram_matrix(x: Tensor, normalize: GramNormalization = "chw", *, backend: Backend = "auto") -> Tensor:
    """Gram matrices of feature maps: G[n, i, j] = s * sum over pixels of x[n, i] * x[n, j].

    Args:
        x: Features (N, C, H, W).
        normalize: The factor s: "none" 1 (piq), "hw" 1/(H W) (Gatys et al., pystiche), "chw" 1/(C H W) (Johnson et
            al. 2016, pytorch/examples, BasicSR).
        backend: See the module.

    Returns:
        (N, C, C), symmetric, fp32 (fp64 for fp64).

    Raises:
        TypeError, ValueError: Invalid argument; the message names it.
        RuntimeError: backend="native" where the compiled operators cannot run.
    """
    checks.check_map("x", x)
    checks.check_choice("normalize", normalize, checks.NORMALIZATIONS)
    if use_native([x], backend):
        return torch.ops.perceptual_ops.gram_matrix(x, normalize)
    return reference.raw_gram_matrix(x, normalize)


def channel_statistics(x: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Mean and standard deviation of every channel of feature maps, over their pixels.

    Their distance is the style of Li et al. 2017 ("Demystifying Neural Style Transfer"); they are what AdaIN sets.

    Args:
        x: Features (N, C, H, W).
        backend: See the module.

    Returns:
        (N, 2, C), fp32 (fp64 for fp64), with means first, then sqrt(v + 1e-5) of the biased variances v. The 1e-5 is
        that of batch normalisation and AdaIN; with it the gradient of a constant channel is 0.

    Raises:
        TypeError, ValueError: Invalid argument.
        RuntimeError: backend="native" where the compiled operators cannot run.
    """
    checks.check_map("x", x)
    return statistics_of([x], backend)[0]


def statistics_of(features: list[Tensor], backend: str) -> list[Tensor]:  # L x (N, 2, C)
    """`channel_statistics` of several checked maps at once."""
    if use_native(features, backend):
        return torch.ops.perceptual_ops.channel_statistics(features)
    return [reference.raw_channel_statistics(x) for x in features]


def statistics_terms(
    statistics: list[Tensor],  # L x (N, 2, C)
    targets: list[Tensor],  # L x (N or 1, 2, C)
    weights: list[float],
    distance: str,
    parameter: float,
) -> tuple[Tensor, Tensor]:
    """Distance of means plus that of deviations (N), and its unweighted, detached layer values (L, N)."""
    loss, per_layer = reference.statistics_terms(statistics, targets, weights, distance, parameter)
    return loss, per_layer.detach()


def style_terms(
    features: list[Tensor],
    target_grams: list[Tensor],
    weights: list[float],
    normalize: str,
    distance: str,
    parameter: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The style loss (N) and its unweighted, detached layer values (L, N), from checked arguments."""
    if use_native(features, backend):
        loss, per_layer = layer_loss("style_loss", features, target_grams, weights, normalize, distance, parameter)
    else:
        loss, per_layer = reference.style_terms(features, target_grams, weights, normalize, distance, parameter)
    return loss, per_layer.detach()


def feature_terms(
    features: list[Tensor],
    targets: list[Tensor],
    weights: list[float],
    distance: str,
    parameter: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The feature loss (N) and its unweighted, detached layer values (L, N), from checked arguments."""
    if not use_native([*features, *targets], backend):
        loss, per_layer = reference.feature_terms(features, targets, weights, distance, parameter)
    elif distance == "cosine":
        pairs = zip(features, targets, checks.halves(features), strict=True)
        values = [layer_loss("lpips_distance", *([x] for x in pair), checks.COSINE_EPS, False)[0] for pair in pairs]
        loss, per_layer = reference.weighted_sum(values, weights)
    else:
        loss, per_layer = layer_loss("feature_loss", features, targets, weights, distance, parameter)
    return loss, per_layer.detach()


def style_loss(
    features: Sequence[Tensor],
    target_grams: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    normalize: GramNormalization = "chw",
    distance: Distance = "mse",
    reduction: Reduction = "mean",
    *,
    eps: float = 1e-6,
    delta: float = 1.0,
    backend: Backend = "auto",
) -> Tensor:
    """Distance of Gram matrices to target Grams, all layers at once (Gatys et al. 2016; Johnson et al. 2016, eq. 4).

    For each sample sum_l weights[l] * mean over (C, C) of d(G_l - A_l), with G_l = gram_matrix(features[l], normalize).

    Args:
        features: One map (N, C, H, W) per layer; layers may differ in C, H and W.
        target_grams: One (N or 1, C, C) per layer, fp32 (fp64 for fp64 features); need not be symmetric. No gradient
            flows to them.
        weights: One number per layer; ones by default.
        normalize: As in `gram_matrix`.
        distance: d(e): "mse" e^2; "sse" e^2 summed instead of averaged (the squared Frobenius norm of the paper);
            "l1" ``|e|``; "charbonnier" sqrt(e^2 + eps); "huber" e^2/2 up to delta, ``delta (|e| - delta/2)`` beyond.
        reduction: "mean" or "sum" over the batch, or "none". A batch of 0 gives 0.
        eps, delta: Parameters of "charbonnier" and "huber", above 0.
        backend: See the module.

    Returns:
        A scalar, or (N,) for reduction="none"; fp32 (fp64 for fp64).

    Raises:
        TypeError, ValueError: Invalid argument, or target_grams or weights require grad.
        RuntimeError: backend="native" where the compiled operators cannot run.
    """
    checks.check_choice("normalize", normalize, checks.NORMALIZATIONS)
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    parameter = checks.check_distance(distance, eps, delta)
    maps = checks.check_features(features)
    grams = checks.check_target_grams(target_grams, maps)
    numbers = checks.check_weights(weights, len(maps))
    loss, _ = style_terms(maps, grams, numbers, normalize, distance, parameter, backend)
    return checks.reduce(loss, reduction)


def feature_loss(
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    distance: FeatureDistance = "mse",
    reduction: Reduction = "mean",
    *,
    eps: float = 1e-6,
    delta: float = 1.0,
    backend: Backend = "auto",
) -> Tensor:
    """Distance of feature maps, all layers at once (Johnson et al. 2016, eq. 2).

    For each sample sum_l weights[l] * mean over (C, H, W) of d(x_l - y_l); "cosine" is the mean over (H, W) of 1 - the
    cosine of the channels of x_l and y_l, with 1e-10 beside their lengths; 1/2 where one of the two is 0.

    Args:
        features: One map (N, C, H, W) per layer; layers may differ in C, H and W.
        targets: One map per layer, shaped like the features or with a batch of 1, in their dtype. Gradients flow to
            those that require them.
        weights: One number per layer; ones by default.
        distance, reduction, eps, delta: As in `style_loss`, or "cosine".
        backend: See the module.

    Returns:
        A scalar, or (N,) for reduction="none"; fp32 (fp64 for fp64).

    Raises:
        TypeError, ValueError: Invalid argument, or weights require grad.
        RuntimeError: backend="native" where the compiled operators cannot run.
    """
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    parameter = checks.check_distance(distance, eps, delta, checks.CONTENT_DISTANCES)
    maps = checks.check_features(features)
    target_maps = checks.check_targets(targets, maps)
    numbers = checks.check_weights(weights, len(maps))
    loss, _ = feature_terms(maps, target_maps, numbers, distance, parameter, backend)
    return checks.reduce(loss, reduction)


def total_variation(
    x: Tensor, kind: Variation = "l2_squared", reduction: Reduction = "mean", *, backend: Backend = "auto"
) -> Tensor:
    """Total variation of images, summed over channels and over pixel pairs to the right and down.

    Args:
        x: Images (N, C, H, W).
        kind: "l1" ``|dx| + |dy|``; "l2_squared" dx^2 + dy^2; "l2" the root of an image's "l2_squared" (piq's three
            kinds). The gradient of "l2" at a constant image is 0.
        reduction: "mean" or "sum" over the batch, or "none". A batch of 0 gives 0.
        backend: See the module.

    Returns:
        A scalar, or (N,) for reduction="none"; fp32 (fp64 for fp64).

    Raises:
        TypeError, ValueError: Invalid argument.
        RuntimeError: backend="native" where the compiled operators cannot run.
    """
    checks.check_map("x", x)
    checks.check_choice("kind", kind, checks.VARIATIONS)
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    summed = "l2_squared" if kind == "l2" else kind
    if use_native([x], backend):
        value = torch.ops.perceptual_ops.total_variation(x, summed)
    else:
        value = reference.variation(x, summed)
    return checks.reduce(reference.root(value) if kind == "l2" else value, reduction)
