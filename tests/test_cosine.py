"""The distance "cosine" of features, which is half of LPIPS's with equal channels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from maps import DTYPES, LAYOUTS, assert_accurate, random_map
from torch import Tensor

import perceptual_ops as po

WEIGHTS = [0.75, -2.0]


def maps(dtype: torch.dtype, device: str, layout: str, batch: int, seed: int) -> list[Tensor]:
    shapes = [(batch, 70, 9, 13), (batch, 3, 1, 1)]
    return [LAYOUTS[layout](random_map(shape, dtype, device, seed + i)) for i, shape in enumerate(shapes)]


def naive(xs: list[Tensor], ys: list[Tensor]) -> Tensor:  # (N)
    pairs = zip(WEIGHTS, xs, ys, strict=True)
    return torch.stack([w * (1 - F.cosine_similarity(x, y, dim=1)).mean((1, 2)) for w, x, y in pairs]).sum(0)


def value_and_gradients(loss, xs: list[Tensor], ys: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in (*xs, *ys)]
    value = loss(leaves[: len(xs)], leaves[len(xs) :])
    upstream = torch.arange(1, 1 + len(value), device=value.device).to(value.dtype)
    return [value.detach(), *torch.autograd.grad(value, leaves, upstream)]


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "cropped"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(dtype: torch.dtype, layout: str, backend: str, device: str) -> None:
    xs, ys = maps(dtype, device, layout, 3, 1), maps(dtype, device, layout, 1, 5)
    ours = value_and_gradients(
        lambda xs, ys: po.feature_loss(xs, ys, WEIGHTS, "cosine", "none", backend=backend), xs, ys
    )
    rival = value_and_gradients(naive, xs, ys)
    exact = value_and_gradients(naive, [x.double() for x in xs], [y.double() for y in ys])
    for mine, theirs, truth in zip(ours, rival, exact, strict=True):
        if dtype == torch.float64:  # torch has another eps
            torch.testing.assert_close(mine, truth, rtol=1e-6, atol=1e-8)
        else:
            assert_accurate(mine, theirs, truth)


def test_gradcheck(backend: str, device: str) -> None:
    xs, ys = maps(torch.float64, device, "nchw", 2, 1), maps(torch.float64, device, "nchw", 2, 5)
    leaves = [x[:, :4, :2, :2].detach().requires_grad_() for x in (*xs, *ys)]

    def loss(*leaves: Tensor) -> Tensor:
        return po.feature_loss(list(leaves[:2]), list(leaves[2:]), WEIGHTS, "cosine", "none", backend=backend)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


def test_pixels_without_features_have_no_gradient(backend: str, device: str) -> None:
    x, y = torch.zeros(1, 4, 2, 2, device=device, requires_grad=True), torch.ones(1, 4, 2, 2, device=device)
    value = po.feature_loss([x], [y], distance="cosine", backend=backend)
    assert value.item() == pytest.approx(0.5) and not torch.autograd.grad(value, x)[0].any()


def test_it_is_of_features_alone() -> None:
    x = torch.ones(1, 4, 2, 2)
    with pytest.raises(ValueError, match=r"distance: expected one of 'mse', .*; got 'cosine'"):
        po.style_loss([x], [po.gram_matrix(x)], distance="cosine")
