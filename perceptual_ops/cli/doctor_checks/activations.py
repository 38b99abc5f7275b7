"""The operators of a trunk: what lies between its convolutions, and how images enter and leave it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import _checks as checks
from ... import activation_reference as oracle
from ... import reference
from .cases import Cases, Data, cases_of, gradients

# kind, kernel, stride: the networks' own, overlapping windows, codes of eight bits.
POOLINGS = (("max", 2, 2), ("max", 3, 2), ("max", 4, 3), ("average", 2, 2), ("blur", 2, 2))
SHAPES = ((2, 5, 7, 9), (3, 1, 6, 6), (1, 70, 6, 13))  # that every pooling takes


def _written(data: Data, seed: int) -> Tensor:
    """A map as those are that are written in place."""
    return data.map(seed).clone(memory_format=torch.channels_last)


def _bias(data: Data) -> Tensor:  # (C)
    return data.numbers(2, data.shape[1])


def _widened(x: Tensor) -> Tensor:
    return x.to(checks.accumulator_dtype(x))


def _per_sample(numbers: Tensor | None, like: Tensor) -> Tensor:  # (N) -> (N, 1, 1, 1)
    return like.new_ones(1) if numbers is None else numbers.view(-1, 1, 1, 1)


# Images


def _normalize_arguments(data: Data) -> Iterator[Any]:
    scale, shift = data.numbers(2, data.shape[1]), data.numbers(3, data.shape[1])
    for of_images in dict.fromkeys((data.wide, data.dtype)):
        yield data.map(1, dtype=of_images), scale, shift, data.dtype


def _normalize(images: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> list[Tensor]:
    return [oracle.affine(images.to(scale.dtype), scale, shift).to(dtype)]


def _normalize_backward_arguments(data: Data) -> Iterator[Any]:
    images, scale, factor = data.map(1, dtype=data.wide), data.numbers(2, data.shape[1]), data.numbers(3, data.shape[0])
    yield data.map(4), images, scale, None, None
    yield data.map(4), images, scale, factor, data.map(5, dtype=data.wide)


def _normalize_backward(
    grad: Tensor, images: Tensor, scale: Tensor, factor: Tensor | None, add: Tensor | None
) -> list[Tensor]:
    scaled = _per_sample(factor, scale) * scale.view(-1, 1, 1) * grad.to(scale.dtype)
    return [scaled if add is None else scaled + add]


# ReLU


def _relu_arguments(data: Data) -> Iterator[Any]:
    yield _written(data, 1), _bias(data), True
    yield _written(data, 1), None, True


def _relu(x: Tensor, bias: Tensor | None, signs: bool) -> list[Tensor]:
    value = oracle.biased(_widened(x), bias)
    passes = oracle.passes(value)
    return [torch.where(passes, value, 0).to(x.dtype), oracle.packed(passes, 1)]


def _signs(data: Data) -> Tensor:
    return oracle.packed(oracle.passes(data.map(6)), 1)


def _no_maxima(data: Data) -> Tensor:  # (N)
    return torch.zeros(data.shape[0], dtype=data.wide, device=data.device)


def _relu_backward_arguments(data: Data) -> Iterator[Any]:
    yield _written(data, 1), _signs(data), None, None, None, _no_maxima(data)
    yield _written(data, 1), _signs(data), data.map(2), data.map(3), data.numbers(4, data.shape[0]), _no_maxima(data)


def _relu_backward(
    grad: Tensor, signs: Tensor, tap: Tensor | None, below: Tensor | None, factor: Tensor | None, maxima: Tensor
) -> list[Tensor]:
    return _masked(_widened(grad), grad, signs, tap, below, factor)


def _masked(
    d: Tensor, like: Tensor, signs: Tensor | None, tap: Tensor | None, below: Tensor | None, factor: Tensor | None
) -> list[Tensor]:
    """The end of both backwards: (signs ? factor * d + tap : 0) + below, and its largest magnitudes (N)."""
    value = _per_sample(factor, d) * d
    if tap is not None:
        value = value + tap.to(d.dtype)
    if signs is not None:
        shape = (like.shape[1], like.shape[2], like.shape[3])
        value = torch.where(oracle.unpacked(signs, 1, shape).bool(), value, 0)
    if below is not None:
        value = value + below.to(d.dtype)
    written = value.to(like.dtype)
    return [written, written.to(d.dtype).abs().flatten(1).amax(1)]


# Pooling


def _pool_arguments(data: Data) -> Iterator[Any]:
    for number, pooling in enumerate(POOLINGS):
        yield data.map(1), None if number % 2 else _bias(data), True, *pooling, True
    yield data.map(1), _bias(data), False, "max", 2, 2, True


def _pool(x: Tensor, bias: Tensor | None, relu: bool, kind: str, kernel: int, stride: int, codes: bool) -> list[Tensor]:
    value, positions = oracle.pooled(oracle.biased(_widened(x), bias), kind, kernel, stride, relu)
    bits = oracle.code_bits(kernel)
    return [value.to(x.dtype), positions.new_empty(0) if kind == "average" else oracle.packed(positions, bits)]


def _on_grid(x: Tensor) -> Tensor:
    """Multiples of a quarter, whose sums every dtype has: the map is pooled as it was rounded."""
    return (4 * x).round() / 4


def _pool_in_place_arguments(data: Data) -> Iterator[Any]:
    for number, pooling in enumerate(POOLINGS):
        yield _on_grid(_written(data, 1)), None if number % 2 else _on_grid(_bias(data)), *pooling, True


def _pool_in_place(x: Tensor, bias: Tensor | None, kind: str, kernel: int, stride: int, keep: bool) -> list[Tensor]:
    written, signs = _relu(x, bias, keep)
    pooled, codes = _pool(written, None, False, kind, kernel, stride, keep)
    return [written, pooled, signs, codes]


def _pool_backward_arguments(data: Data) -> Iterator[Any]:
    for kind, kernel, stride in POOLINGS:
        pooled, positions = oracle.pooled(data.map(1).double(), kind, kernel, stride, True)
        codes = None if kind == "average" else oracle.packed(positions, oracle.code_bits(kernel))
        grad, pooling = data.map(2, pooled.shape), (kind, kernel, stride, _no_maxima(data))
        yield _written(data, 3), grad, codes, None, False, None, None, *pooling
        terms = _signs(data), True, data.map(4), data.numbers(5, data.shape[0])
        yield _written(data, 3), grad, codes, *terms, *pooling


def _pool_backward(
    x: Tensor, grad: Tensor, codes: Tensor | None, signs: Tensor | None, tap: bool, below: Tensor | None,
    factor: Tensor | None, kind: str, kernel: int, stride: int, maxima: Tensor,
) -> list[Tensor]:  # fmt: skip
    step, (channels, *size) = oracle.step_of(kind, stride), x.shape[1:]
    positions = torch.zeros(0, device=x.device)
    if codes is not None:
        bits = oracle.code_bits(kernel)
        rows, columns = ((side - kernel) // step + 1 for side in size)
        positions = oracle.unpacked(codes, bits, (channels, rows, columns))
        positions = torch.where(positions == 2**bits - 1, oracle.NOWHERE, positions)
    d = oracle.pooled_backward(_widened(grad), positions, (size[0], size[1]), kind, kernel, stride)
    return _masked(d, x, signs, x if tap else None, below, factor)


def _l2_pool_backward_arguments(data: Data) -> Iterator[Any]:
    x = data.map(1)
    yield data.map(2, reference.l2_pool(x).shape), x


def _l2_pool_backward(grad: Tensor, x: Tensor) -> list[Tensor]:
    return gradients(reference.l2_pool, [x], grad)


# Loss scaling


def _loss_scale_arguments(data: Data) -> Iterator[Any]:
    """In fp32 whatever the maps are."""
    scale = torch.where(data.numbers(1, data.shape[0]) > 0, 4096.0, 0.125)
    bound, *taps = data.numbers(2, 3, data.shape[0]).float().abs()
    grown, grows = (1 + data.numbers(seed).float().abs() for seed in (3, 4))
    yield None, None, None, 1.0, taps, grows, 2.0**15
    yield scale, bound, grown, 4.0, taps[:1], grows, 2.0**15
    yield torch.ones_like(scale), bound, None, 1.0, [], None, 3.0


# Sums of gradients are rounded to the dtype of the maps before their largest magnitude is read.
ACTIVATIONS: dict[str, Cases] = {
    name: cases_of(name, arguments, plain, SHAPES, rounds)
    for name, arguments, plain, rounds in (
        ("normalize_images", _normalize_arguments, _normalize, False),
        ("normalize_images_backward", _normalize_backward_arguments, _normalize_backward, False),
        ("bias_relu_", _relu_arguments, _relu, False),
        ("bias_relu_backward_", _relu_backward_arguments, _relu_backward, True),
        ("bias_relu_pool", _pool_arguments, _pool, False),
        ("bias_relu_pool_", _pool_in_place_arguments, _pool_in_place, False),
        ("bias_relu_pool_backward_", _pool_backward_arguments, _pool_backward, True),
        ("l2_pool", lambda data: [(data.map(1),)], reference.l2_pool, False),
        ("l2_pool_backward", _l2_pool_backward_arguments, _l2_pool_backward, False),
        ("loss_scale", _loss_scale_arguments, oracle.loss_scale, False),
    )
}
