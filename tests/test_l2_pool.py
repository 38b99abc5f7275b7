"""DISTS's pooling and its gradient, against autograd through the reference and against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from maps import DTYPES, LAYOUTS, assert_accurate, random_map
from torch import Tensor

from perceptual_ops import reference

# Odd and even sides, one row, one column, one pixel, one channel, several bands of rows.
SHAPES = [(2, 5, 7, 9), (1, 64, 8, 6), (2, 3, 1, 4), (3, 2, 5, 1), (2, 4, 1, 1), (1, 1, 2, 3), (2, 6, 37, 4)]


def naive(x: Tensor) -> Tensor:
    """As a user writes it, in x's own dtype."""
    line = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype, device=x.device)
    kernel = (torch.outer(line, line) / 16).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x * x, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def pooled_and_gradient(pool, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    pooled = pool(leaf)
    return pooled.detach(), torch.autograd.grad(pooled, leaf, grad.to(x.dtype))[0]


def ours(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    library = torch.ops.perceptual_ops
    return library.l2_pool(x), library.l2_pool_backward(grad, x)


def upstream_of(x: Tensor) -> Tensor:
    shape = (*x.shape[:2], (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
    return random_map(shape, x.dtype, str(x.device), 7)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(dtype: torch.dtype, layout: str, native: str, device: str) -> None:
    for shape in SHAPES:
        x = LAYOUTS[layout](random_map(shape, dtype, device, 1))
        grad = LAYOUTS[layout](upstream_of(x))
        copies = x.clone(), grad.clone()
        exact = pooled_and_gradient(reference.l2_pool, x.double(), grad)
        for mine, theirs, truth in zip(ours(x, grad), pooled_and_gradient(naive, x, grad), exact, strict=True):
            assert mine.dtype == dtype
            assert mine.is_contiguous(memory_format=torch.channels_last)
            assert_accurate(mine, theirs, truth)
        assert torch.equal(x, copies[0])
        assert torch.equal(grad, copies[1])


def test_reference_agrees_with_the_naive_formula(device: str) -> None:
    for shape in SHAPES:
        x = random_map(shape, torch.float64, device, 1)
        mine, theirs = (pooled_and_gradient(pool, x, upstream_of(x)) for pool in (reference.l2_pool, naive))
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_have_no_gradient(dtype: torch.dtype, native: str, device: str) -> None:
    x = torch.zeros((1, 3, 6, 6), dtype=dtype, device=device)
    pooled, gradient = ours(x, torch.ones_like(x[:, :, ::2, ::2]))
    assert gradient.eq(0).all()
    torch.testing.assert_close(pooled, torch.full_like(pooled, 1e-6))


def test_fp16_squares_do_not_overflow(native: str, device: str) -> None:
    x = torch.full((1, 8, 6, 6), 30000.0, dtype=torch.float16, device=device)
    pooled, gradient = ours(x, torch.ones_like(x[:, :, ::2, ::2]))
    assert pooled[:, :, 1, 1].eq(30000).all()
    assert gradient[:, :, 2, 2].eq(0.25).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_in_their_windows(bad: float, native: str, device: str) -> None:
    x = random_map((2, 3, 8, 9), torch.float32, device, 1)
    x[1, 1, 3, 4] = bad
    grad = upstream_of(x)
    exact = pooled_and_gradient(reference.l2_pool, x, grad)
    for mine, truth in zip(ours(x, grad), exact, strict=True):
        assert torch.equal(mine.isfinite(), truth.isfinite())
    assert not exact[0][1, 1, 1:3, 2].isfinite().any()  # the pixel's own windows
    assert exact[0].isfinite().sum() == exact[0].numel() - 2


def test_bad_gradients_stay_in_their_window(native: str, device: str) -> None:
    x = random_map((2, 3, 8, 9), torch.float32, device, 1)
    grad = upstream_of(x)
    grad[1, 1, 2, 2] = torch.nan
    gradient = ours(x, grad)[1]
    assert gradient[1, 1, 3:6, 3:6].isnan().all()
    assert gradient.isnan().sum() == 9


def test_same_bits_every_time(native: str, device: str) -> None:
    x = random_map((3, 70, 33, 31), torch.bfloat16, device, 1)
    first = ours(x, upstream_of(x))
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(ours(x, upstream_of(x)), first, strict=True))


def test_samples_2_to_the_31_elements_apart(native: str, device: str) -> None:
    apart = 2**31 + 3
    memory = torch.empty(apart + 1000, dtype=torch.float16, device=device)
    view = memory.as_strided((2, 3, 4, 5), (apart, 1, 15, 3))
    dense = random_map((2, 3, 4, 5), torch.float16, device, 1)
    view.copy_(dense)
    for mine, truth in zip(ours(view, upstream_of(dense)), ours(dense, upstream_of(dense)), strict=True):
        assert torch.equal(mine, truth)


def test_empty_batch(native: str, device: str) -> None:
    pooled, gradient = ours(torch.ones((0, 3, 4, 5), device=device), torch.ones((0, 3, 2, 3), device=device))
    assert (pooled.shape, gradient.shape) == ((0, 3, 2, 3), (0, 3, 4, 5))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool, native: str, device: str) -> None:
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in (7, 8) if dynamic else (7,):
        x = random_map((2, 3, size, size + 1), torch.float32, device, 1)
        for mine, truth in zip(compiled(x, upstream_of(x)), ours(x, upstream_of(x)), strict=True):
            assert torch.equal(mine, truth)
            assert mine.stride() == truth.stride()
