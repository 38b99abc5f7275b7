"""Any per-sample loss and its gradient in one pass, a chunk of samples at a time; see custom_op.py.

The function runs under ordinary autograd within the operator. Each chunk's graph is freed before the next is made.
"""

from __future__ import annotations

import itertools
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _autocast
from .. import _checks as checks
from .batching import chunks, rows_of
from .chunk_graph import ChunkGraph, refuse_training_norms
from .custom_op import gradient_like, no_gradients, refuse_second_derivative, times_upstream
from .modes import under_autograd

SCALES = (2.0**15, 2.0**10, 2.0**5, 1.0)  # of a gradient that passes through fp16, which has no room above 2**16


class PerSample:
    """A function of a chunk of samples, under a key that an operator can take.

    Attributes:
        key: Finds this object while it lives. It includes an id of this process, so that a graph from a compiler's
            cache finds nothing in another process rather than another function.
    """

    def __init__(self, fn: Callable[..., Tensor]) -> None:
        self.fn = fn
        self.key: str = f"{_PROCESS}/{next(_numbers)}"
        _functions[self.key] = self


_PROCESS = uuid.uuid4().hex
_numbers = itertools.count()
_functions: weakref.WeakValueDictionary[str, PerSample] = weakref.WeakValueDictionary()


def function_of(key: str) -> Callable[..., Tensor]:
    per_sample = _functions.get(key)
    if per_sample is None:
        raise RuntimeError(
            "fn: expected the chunked(fn) that this program was compiled with, this process holds it no more, or never "
            "did; keep the object as long as the program, or compile again"
        )
    return per_sample.fn


@torch.library.custom_op(
    "perceptual_ops::chunked", mutates_args=(),
    schema="(Tensor output, Tensor[] others, str key, SymInt chunk_size, ScalarType? autocast, bool grad_enabled, "
    "bool output_gradient) -> (Tensor, Tensor)",  # torch 2.4 reads no annotations that are strings
)  # fmt: skip
def chunked(
    output: Tensor,  # (N, ...)
    others: list[Tensor],  # (N or 1, ...)
    key: str,
    chunk_size: int,
    autocast: torch.dtype | None,
    grad_enabled: bool,
    output_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The values (N), and the gradient with respect to output, empty where it is not wanted.

    `autocast` is the dtype of the caller's autocast, None where it is off. Under `grad_enabled` tensors within fn that
    ask for a gradient are refused.
    """
    fn, wide = function_of(key), checks.accumulator_dtype(output)
    refuse_training_norms(fn)
    by_output = gradient_like(output, wide, output_gradient)
    of_chunks = [output.new_empty(0, dtype=wide)]
    precision = _autocast.autocast(output.device.type, autocast)
    with under_autograd(), torch.set_grad_enabled(grad_enabled), precision:
        for rows in chunks(output.shape[0], chunk_size) if output.shape[0] else ():
            own = [x.detach().clone() for x in rows_of(others, rows)]
            values, gradient = _chunk(fn, output[rows].detach(), own, grad_enabled, output_gradient)
            of_chunks.append(values.to(output.device, wide, copy=True))  # fn may return the same memory at every call
            if gradient is not None:
                by_output[rows].copy_(gradient)
    return torch.cat(of_chunks), by_output


@chunked.register_fake
def _(output: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    wide = checks.accumulator_dtype(output)
    return output.new_empty(output.shape[0], dtype=wide), gradient_like(output, wide, settings[-1])


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.dtype, ctx.others, ctx.wanted = inputs[0].dtype, no_gradients(inputs[1:]), inputs[-1]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _multiply_gradient(ctx: Any, grad: Tensor | None, _non_differentiable: object) -> tuple[Any, ...]:
    if grad is None or not ctx.wanted:
        return None, *ctx.others
    refuse_second_derivative("call fn itself, outside of chunked,")
    return times_upstream(ctx.saved_tensors[0], grad, ctx.dtype), *ctx.others


chunked.register_autograd(_multiply_gradient, setup_context=_keep_gradient)


def _chunk(
    fn: Callable[..., Tensor], output: Tensor, others: list[Tensor], grad_enabled: bool, wanted: bool
) -> tuple[Tensor, Tensor | None]:  # (n), (n, ...)
    """The detached values of a chunk, and its gradient where it is wanted."""
    leaf = output.requires_grad_(wanted)
    # fn may overwrite what it is given: neither a leaf nor the caller's memory.
    values = check_values(fn(leaf.clone(), *others), output)
    if not grad_enabled:
        return values, None
    graph = ChunkGraph(values, leaf)
    graph.check(fn)
    if not wanted:
        return values.detach(), None
    with _autocast.autocast(leaf.device.type):  # which would narrow the backward of what fn runs in fp32
        return values.detach(), _gradient(values, leaf, graph.has_fp16)


def check_values(values: object, output: Tensor) -> Tensor:
    """What fn returned for a chunk of output (n, ...): one number per sample."""
    count = output.shape[0]
    if not isinstance(values, Tensor):
        raise TypeError(f"fn: expected a tensor of one number per sample, got {type(values).__name__}")
    if not values.is_floating_point():
        raise TypeError(f"fn: expected a floating-point tensor, got {values.dtype}")
    if values.dim() != 1 or values.shape[0] != count:
        raise ValueError(
            f"fn: expected one number per sample, shape ({count},) for a chunk of {tuple(output.shape)}; got "
            f"{tuple(values.shape)}; reduce over all dimensions but the first"
        )
    return values


def _gradient(values: Tensor, leaf: Tensor, has_fp16: bool) -> Tensor:  # (n), (n, ...) -> (n, ...)
    """The gradient of the sum; that of each sample through fp16 by the largest scale at which it does not overflow.

    The GradScaler's factor, which keeps it from underflow, comes only after it is made.
    """
    if not has_fp16:
        return torch.autograd.grad(values, leaf, torch.ones_like(values))[0]
    wide = checks.accumulator_dtype(leaf)
    values = values.to(wide)

    def unscaled(scale: float) -> Tensor:
        (scaled,) = torch.autograd.grad(values, leaf, torch.full_like(values, scale), retain_graph=True)
        return scaled.to(wide) / scale

    gradient = unscaled(SCALES[0])
    for scale in SCALES[1:]:
        finite = gradient.isfinite().reshape(gradient.shape[0], -1).all(1)
        if finite.all():
            break
        gradient = torch.where(finite.view(-1, *[1] * (gradient.dim() - 1)), gradient, unscaled(scale))
    return gradient
