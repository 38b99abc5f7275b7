"""Grams and their gradients on the CPU, whose sums are cut into parts: csrc/gram/gram_parts_cpu.h."""

from __future__ import annotations

import pytest
import torch
from maps import assert_accurate
from torch import Tensor

from bench.memory import resident_peak
from perceptual_ops import gram_matrix

# More pixels than one part and one block of a gradient take, and one part of several panels whose rows threads share;
# channels end amid a tile.
SHAPES = [(2, 70, 61, 53), (1, 200, 20, 23)]


def gram_and_gradient(x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    gram = gram_matrix(x, backend=backend)
    upstream = torch.linspace(-1, 2, gram.numel(), dtype=gram.dtype).view_as(gram)
    return gram.detach(), *torch.autograd.grad(gram, x, upstream)


def maps(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu_()
    return values.to(dtype).contiguous(memory_format=layout)


both_layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@both_layouts
@every_dtype
@every_shape
def test_parts_make_the_whole(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, library: None
) -> None:
    x = maps(shape, dtype, layout)
    found, exact = gram_and_gradient(x, "native"), gram_and_gradient(x.double(), "reference")
    naive = gram_and_gradient(x, "reference")
    for ours, theirs, truth in zip(found, naive, exact, strict=True):
        assert_accurate(ours, theirs, truth)


@both_layouts
@every_dtype
@every_shape
def test_bits_do_not_depend_on_threads(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, library: None
) -> None:
    """The gradient in fp32 is torch's product, whose bits may."""
    x, threads, found = maps(shape, dtype, layout), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(gram_and_gradient(x, "native")[: 1 if dtype == torch.float32 else 2])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@both_layouts
def test_partial_grams_take_8_mb_at_most(layout: torch.memory_format, library: None) -> None:
    """Besides them there are the result, 1 MB, and half of one in panels for each thread."""
    x = torch.ones((1, 512, 96, 96), dtype=torch.bfloat16).contiguous(memory_format=layout)
    gram_matrix(x[..., :8, :8], backend="native")
    assert resident_peak(lambda: gram_matrix(x, backend="native")) < (11 + torch.get_num_threads()) * 2**20
