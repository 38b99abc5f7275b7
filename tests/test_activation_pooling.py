"""Pooling within a trunk, with the bias and the ReLU before it, against the fp64 activation_reference.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from activation_maps import (
    SHAPES,
    accumulator,
    assert_dense_nhwc,
    dtypes,
    expected_maxima,
    grid_map,
    masked,
    nhwc,
    no_maxima,
    normal_map,
)
from maps import assert_accurate, random_map
from torch import Tensor

from perceptual_ops import activation_reference as oracle
from perceptual_ops.networks.feature_network import BlurPool, Pool

library = torch.ops.perceptual_ops

# kind, kernel, stride: the networks' own, overlapping, with gaps, of one pixel, and codes of eight bits.
POOLINGS = [
    *(("max", kernel, stride) for kernel, stride in [(2, 2), (3, 2), (3, 1), (2, 3), (1, 1), (4, 3), (15, 7)]),
    *(("average", kernel, stride) for kernel, stride in [(2, 2), (3, 2), (2, 3), (4, 4)]),
    *(("blur", kernel, stride) for kernel, stride in [(2, 2), (2, 1), (3, 2), (2, 5), (4, 3)]),
]
poolings = pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: "-".join(map(str, pooling)))


def is_legal(shape: tuple[int, ...], pooling: tuple[str, int, int]) -> bool:
    kind, kernel, _ = pooling
    return min(shape[2:]) >= kernel + (2 if kind == "blur" else 0)


@pytest.mark.parametrize("relu", [True, False])
@poolings
@dtypes
def test_pool(dtype: torch.dtype, pooling: tuple[str, int, int], relu: bool, device: str, native: str) -> None:
    kind, kernel, _ = pooling
    for shape, make in itertools.product(SHAPES, (grid_map, normal_map)):
        if not is_legal(shape, pooling):
            continue
        x, bias = make(shape, dtype, device), make((1, shape[1], 1, 1), dtype, device, 1).flatten()
        before = x.clone()
        ours, codes = library.bias_relu_pool(x, bias, relu, *pooling, True)
        assert torch.equal(x, before)
        assert_dense_nhwc(ours)
        value = oracle.biased(x.to(accumulator(dtype)), bias.to(accumulator(dtype)))
        exact, positions = oracle.pooled(value.double(), *pooling, relu)
        if kind == "max":
            assert torch.equal(ours, exact.to(dtype))
        else:
            assert_accurate(ours, oracle.pooled(oracle.biased(x, bias), *pooling, relu)[0], exact)
        if kind == "average":
            assert codes.shape == (0,)
        else:
            assert torch.equal(codes, oracle.packed(positions, oracle.code_bits(kernel)))
        without, empty = library.bias_relu_pool(x, bias, relu, *pooling, False)
        assert torch.equal(without, ours) and empty.shape == (0,)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("kernel", [2, 3, 4])
@dtypes
def test_pool_of_special_numbers(dtype: torch.dtype, kernel: int, relu: bool, device: str, native: str) -> None:
    """The first of equals, the last of NaNs, nothing where no gradient passes."""
    numbers = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, -1.0, -1.0, -1.0], device=device)
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(len(numbers), (2, 19, 13, 14), generator=generator).to(device)
    x = nhwc(torch.where(torch.arange(19, device=device).view(-1, 1, 1) < 9, numbers[places], -1.0).to(dtype))
    ours, codes = library.bias_relu_pool(x, None, relu, "max", kernel, 2, True)
    exact, positions = oracle.pooled(x, "max", kernel, 2, relu)
    assert torch.equal(ours.nan_to_num(7), exact.nan_to_num(7)) and exact.isnan().any()
    assert torch.equal(codes, oracle.packed(positions, oracle.code_bits(kernel)))


@poolings
@dtypes
def test_a_map_that_is_kept_with_its_pooling(
    dtype: torch.dtype, pooling: tuple[str, int, int], device: str, native: str
) -> None:
    """The bits of its two parts, one after the other."""
    for shape in SHAPES:
        if not is_legal(shape, pooling):
            continue
        x = normal_map(shape, dtype, device)
        x[:, :, ::5, ::2] = float("nan")
        bias = normal_map((1, shape[1], 1, 1), dtype, device, 1).flatten()
        for keep in (True, False):
            map_, ours = x.clone(), x.clone()
            signs = library.bias_relu_(map_, bias, keep)
            pooled, codes = library.bias_relu_pool(map_, None, False, *pooling, keep)
            ours_pooled, ours_signs, ours_codes = library.bias_relu_pool_(ours, bias, *pooling, keep)
            assert torch.equal(ours.nan_to_num(7), map_.nan_to_num(7)) and map_.isnan().any() == (map_.numel() > 0)
            assert torch.equal(ours_pooled.nan_to_num(7), pooled.nan_to_num(7))
            assert torch.equal(ours_signs, signs) and torch.equal(ours_codes, codes)
            assert_dense_nhwc(ours_pooled)


@poolings
@dtypes
def test_pool_backward(dtype: torch.dtype, pooling: tuple[str, int, int], device: str, native: str) -> None:
    kind, kernel, _ = pooling
    for shape in SHAPES:
        if not is_legal(shape, pooling):
            continue
        value = grid_map(shape, dtype, device)
        exact, positions = oracle.pooled(value.double(), *pooling, True)
        codes = None if kind == "average" else oracle.packed(positions, oracle.code_bits(kernel))
        grad, tap, below = (normal_map(size, dtype, device, i) for i, size in enumerate((exact.shape, shape, shape)))
        factor = random_map(shape[:1], accumulator(dtype), device, 4)
        d, naive = (oracle.pooled_backward(g, positions, shape[2:], *pooling) for g in (grad.double(), grad))

        alone, maxima = torch.full_like(value, float("nan")), no_maxima(value)
        library.bias_relu_pool_backward_(alone, grad, codes, None, False, None, None, *pooling, maxima)
        assert_accurate(alone, naive, d)
        assert torch.equal(maxima, expected_maxima(alone))

        passes = oracle.passes(value)
        whole, maxima = tap.clone(), no_maxima(tap)
        settings = (oracle.packed(passes, 1), True, below, factor, *pooling)
        library.bias_relu_pool_backward_(whole, grad, codes, *settings, maxima)
        naive = masked(naive, passes, tap, below, factor.to(dtype))
        assert_accurate(whole, naive, masked(d, passes, tap.double(), below.double(), factor.double()))
        assert torch.equal(maxima, expected_maxima(whole))
        again = tap.clone()
        library.bias_relu_pool_backward_(again, grad, codes, *settings, None)
        assert torch.equal(again, whole)


def torch_pooling(kind: str, kernel: int, stride: int, channels: int, device: str) -> Callable[[Tensor], Tensor]:
    if kind == "blur":
        return BlurPool(Pool("pool", kind=kind, kernel=kernel, stride=stride, channels=channels)).to(device).double()
    pool = F.max_pool2d if kind == "max" else F.avg_pool2d
    return lambda x: pool(x, kernel, stride)


@pytest.mark.parametrize("pooling", [("max", 2, 2), ("max", 3, 2), ("average", 2, 2), ("blur", 2, 2)], ids=str)
def test_gradients_are_those_of_torch(pooling: tuple[str, int, int], device: str, native: str) -> None:
    """A map that is rectified, tapped and pooled, as the trunks' are."""
    shape = (2, 5, 11, 12)
    x, tap = normal_map(shape, torch.float64, device), normal_map(shape, torch.float64, device, 1)
    bias = random_map((5,), torch.float64, device, 2)
    leaf = x.clone().requires_grad_()
    activation = F.relu(leaf + bias.view(-1, 1, 1))
    expected = torch_pooling(*pooling, 5, device)(activation)
    grad = normal_map(tuple(expected.shape), torch.float64, device, 3)
    (of_leaf,) = torch.autograd.grad([expected, activation], leaf, [grad, tap])

    ours, codes = library.bias_relu_pool(x, bias, True, *pooling, True)
    signs = library.bias_relu_(x, bias, True)
    torch.testing.assert_close(ours, expected.detach())
    torch.testing.assert_close(x, activation.detach())
    library.bias_relu_pool_backward_(tap, grad, codes, signs, True, None, None, *pooling, None)
    torch.testing.assert_close(tap, of_leaf)
