"""The launches of DISTS's pooling; see cases.py. Oracle: perceptual_ops/reference.py."""

from __future__ import annotations

import torch
from maps import random_map
from torch import Tensor

from host.cases import Check
from host.cases_activation import assert_accurate_but_for_nan
from host.memory import OUTSIDE, accumulator, assert_untouched_outside, element, like_view, memory_of
from host.worker import Launch, Outputs
from perceptual_ops import reference


def _map(shape: tuple[int, ...], dtype: torch.dtype, before: int, gap: int) -> Tensor:
    """Room in channels_last inside of memory that is not to be touched, `gap` elements between the samples."""
    batch, channels, height, width = shape
    size = channels * height * width
    memory = torch.full((before + batch * (size + gap),), OUTSIDE, dtype=dtype)
    samples = memory[before:].view(batch, size + gap)[:, :size]
    return samples.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)


def _features(shape: tuple[int, ...], dtype: torch.dtype, before: int, gap: int) -> Tensor:
    """Windows of zeros alone in the upper half of the first channel; in the last channel an infinity and a NaN."""
    x = _map(shape, dtype, before, gap).copy_(random_map(shape, dtype, "cpu", 1))
    x[:, 0, : shape[2] // 2] = 0
    if shape[1] > 1:
        x[-1, -1, 0, 0] = torch.inf
        x[-1, -1, -1, -1] = torch.nan
    return x


def l2_pool(dtype: torch.dtype, shape: tuple[int, ...], before: int, gap: int) -> tuple[Launch, Check]:
    x = _features(shape, dtype, before, gap)
    arguments = {
        "element": element(dtype),
        "shape": shape,
        "x": memory_of(x),
        "before": before,
        "stride_x": x.stride(0),
    }

    def check(outputs: Outputs) -> None:
        naive, exact = (reference.l2_pool(x.to(type_)) for type_ in (accumulator(dtype), torch.float64))
        ours = like_view(outputs[0], _map(tuple(exact.shape), dtype, 0, 0))
        _assert_accurate(ours, naive.to(dtype), exact)

    return Launch("activation", "l2_pool", arguments), check


def l2_pool_backward(dtype: torch.dtype, shape: tuple[int, ...], before: int, gap: int) -> tuple[Launch, Check]:
    x, dx = _features(shape, dtype, before, gap), _map(shape, dtype, before, 0)
    pooled = (*shape[:2], *((side - 1) // 2 + 1 for side in shape[2:]))
    grad = _map(pooled, dtype, before, gap).copy_(random_map(pooled, dtype, "cpu", 2))
    arguments = {
        "element": element(dtype),
        "shape": shape,
        "grad": memory_of(grad),
        "stride_grad": grad.stride(0),
        "x": memory_of(x),
        "stride_x": x.stride(0),
        "dx": memory_of(dx),
        "before": before,
    }

    def expected(type_: torch.dtype) -> Tensor:
        wide = x.to(type_).requires_grad_()
        return torch.autograd.grad(reference.l2_pool(wide), wide, grad.to(type_))[0]

    def check(outputs: Outputs) -> None:
        ours = like_view(outputs[0], dx)
        _assert_accurate(ours, expected(accumulator(dtype)).to(dtype), expected(torch.float64))
        assert_untouched_outside(outputs[0], dx)

    return Launch("activation", "l2_pool_backward", arguments), check


def _assert_accurate(ours: Tensor, naive: Tensor, exact: Tensor) -> None:
    """Infinities and NaN where they belong, the policy anywhere else."""
    assert torch.equal(ours.isinf(), exact.isinf()), "infinities elsewhere"
    assert_accurate_but_for_nan(*(torch.where(exact.isinf(), 0, z) for z in (ours, naive, exact)))
