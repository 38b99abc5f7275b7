"""Grams of 16-bit maps and their gradients on the CPU, whose sums are cut into parts: csrc/gram/gram_parts_cpu.h."""

from __future__ import annotations

import pytest
import torch
from maps import assert_accurate
from torch import Tensor

from perceptual_ops import gram_matrix

# More pixels than one part and one block of a gradient take; channels end amid a tile.
SHAPE = (2, 70, 61, 53)


def gram_and_gradient(x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    gram = gram_matrix(x, backend=backend)
    upstream = torch.linspace(-1, 2, gram.numel(), dtype=gram.dtype).view_as(gram)
    return gram.detach(), *torch.autograd.grad(gram, x, upstream)


def maps(dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).relu_()
    return values.to(dtype).contiguous(memory_format=layout)


both_layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@both_layouts
@both_dtypes
def test_parts_make_the_whole(dtype: torch.dtype, layout: torch.memory_format, library: None) -> None:
    x = maps(dtype, layout)
    found, exact = gram_and_gradient(x, "native"), gram_and_gradient(x.double(), "reference")
    naive = gram_and_gradient(x, "reference")
    for ours, theirs, truth in zip(found, naive, exact, strict=True):
        assert_accurate(ours, theirs, truth)


@both_layouts
@both_dtypes
def test_bits_do_not_depend_on_threads(dtype: torch.dtype, layout: torch.memory_format, library: None) -> None:
    x, threads, found = maps(dtype, layout), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(gram_and_gradient(x, "native"))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
