"""What a trunk does between its convolutions, operator by operator, against the fp64 activation_reference.py.

Of pooling speaks test_activation_pooling.py, of what all operators have in common the end of this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
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
    per_sample,
)
from maps import DTYPES, LAYOUTS, assert_accurate, random_map
from torch import Tensor
from torch.library import opcheck

from perceptual_ops import activation_reference as oracle

library = torch.ops.perceptual_ops


# normalize_images


@pytest.mark.parametrize("of_images", DTYPES, ids=str)
@dtypes
def test_normalize_images(dtype: torch.dtype, of_images: torch.dtype, device: str, native: str) -> None:
    scale = torch.tensor([4.1, 0.3, -2.7], device=device)
    shift = torch.tensor([-1.3, 0.1, 0.9], dtype=torch.float64, device=device)
    grey = random_map((2, 1, 6, 7), of_images, device).expand(-1, 3, -1, -1)
    dense = random_map((2, 3, 9, 35), of_images, device)
    for images in [*(view(dense) for view in LAYOUTS.values()), grey, dense[:0], dense[..., ::2]]:
        ours = library.normalize_images(images, scale, shift, dtype)
        assert ours.dtype == dtype
        assert_dense_nhwc(ours)
        exact = oracle.affine(images.double(), scale.double(), shift)
        assert_accurate(ours, oracle.affine(images.to(dtype), scale.to(dtype), shift.to(dtype)), exact)


@pytest.mark.parametrize("of_add", DTYPES, ids=str)
@dtypes
def test_normalize_images_backward(dtype: torch.dtype, of_add: torch.dtype, device: str, native: str) -> None:
    scale = torch.tensor([4.1, 0.3, -2.7], device=device)
    dense = random_map((2, 3, 9, 35), torch.float32, device)
    factor = torch.tensor([0.7, -3.1], dtype=accumulator(dtype), device=device)
    for view, view_of_add in zip(LAYOUTS.values(), reversed(LAYOUTS.values()), strict=True):
        images, add = view(dense), view_of_add(random_map(dense.shape, of_add, device, 2))
        grad = view_of_add(random_map(dense.shape, dtype, device, 1))
        for one, term in itertools.product((factor, None), (add, None)):
            ours = library.normalize_images_backward(grad, images, scale, one, term)
            assert ours.dtype == accumulator(dtype)
            assert ours.stride() == torch.empty_like(images, dtype=ours.dtype).stride()
            factors = torch.ones_like(factor) if one is None else one
            terms = torch.zeros_like(add) if term is None else term
            exact = per_sample(factors.double()) * scale.double().view(-1, 1, 1) * grad.double() + terms.double()
            naive = per_sample(factors) * scale.to(ours.dtype).view(-1, 1, 1) * grad.to(ours.dtype) + terms
            assert_accurate(ours, naive.to(ours.dtype), exact)
    empty = library.normalize_images_backward(grad[:0], images[:0], scale, factor[:0], None)
    assert empty.shape == (0, *images.shape[1:])


# bias_relu_


@pytest.mark.parametrize("of_bias", [None, *DTYPES], ids=str)
@dtypes
def test_bias_relu(dtype: torch.dtype, of_bias: torch.dtype | None, device: str, native: str) -> None:
    """Equal to the sum in the accumulation type, rounded once."""
    for shape, make in itertools.product(SHAPES, (grid_map, normal_map)):
        x = make(shape, dtype, device)
        bias = None if of_bias is None else make((1, shape[1], 1, 1), of_bias, device, 1).flatten()
        value = oracle.biased(x.to(accumulator(dtype)), None if bias is None else bias.to(accumulator(dtype)))
        expected = torch.where(oracle.passes(value), value, 0).to(dtype)
        ours = x.clone()
        signs = library.bias_relu_(ours, bias, True)
        assert torch.equal(ours, expected)
        assert torch.equal(signs, oracle.packed(oracle.passes(value), 1))
        ours = x.clone()
        assert library.bias_relu_(ours, bias, False).shape == (0,)
        assert torch.equal(ours, expected)


@dtypes
def test_bias_relu_of_special_numbers(dtype: torch.dtype, device: str, native: str) -> None:
    numbers = [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, torch.finfo(dtype).tiny, -torch.finfo(dtype).tiny]
    x = nhwc(torch.tensor(numbers, dtype=dtype, device=device).view(1, 1, 1, -1))
    signs = library.bias_relu_(x, None, True)
    assert x.isnan().flatten().tolist() == [True] + [False] * 6
    assert x.flatten()[1:].tolist() == [float("inf"), 0, 0, 0, torch.finfo(dtype).tiny, 0]
    assert signs.tolist() == [[0b0100011]]


@pytest.mark.parametrize(
    "operands", list(itertools.product((False, True), repeat=3)), ids=lambda given: "-".join(map(str, given))
)
@dtypes
def test_bias_relu_backward(dtype: torch.dtype, operands: tuple[bool, ...], device: str, native: str) -> None:
    for shape in SHAPES:
        passes = oracle.passes(grid_map(shape, dtype, device))
        grad, tap, below = (normal_map(shape, dtype, device, seed) for seed in (1, 2, 3))
        factor = random_map(shape[:1], accumulator(dtype), device, 4)
        given = [one if wanted else None for one, wanted in zip((tap, below, factor), operands, strict=True)]
        terms = [one if wanted else 0 * one for one, wanted in zip((tap, below), operands[:2], strict=True)]
        factors = factor if operands[2] else torch.ones_like(factor)
        ours, maxima = grad.clone(), no_maxima(grad)
        library.bias_relu_backward_(ours, oracle.packed(passes, 1), *given, maxima)
        exact = masked(grad.double(), passes, *(term.double() for term in terms), factors.double())
        assert_accurate(ours, masked(grad, passes, *terms, factors.to(dtype)), exact)
        assert torch.equal(maxima, expected_maxima(ours))
        again, above = grad.clone(), maxima + 1
        library.bias_relu_backward_(again, oracle.packed(passes, 1), *given, above)
        assert torch.equal(again, ours) and torch.equal(above, maxima + 1)
        again = grad.clone()
        library.bias_relu_backward_(again, oracle.packed(passes, 1), *given, None)
        assert torch.equal(again, ours)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("nan")])
@dtypes
def test_a_mask_stops_every_number(dtype: torch.dtype, bad: float, device: str, native: str) -> None:
    shape = (3, 5, 7, 9)
    passes = torch.ones(shape, dtype=torch.bool, device=device)
    passes[:2, 2, 3, 4] = False
    ours, tap = (normal_map(shape, dtype, device, seed) for seed in (1, 2))
    ours[0, 2, 3, 4] = tap[1, 2, 3, 4] = ours[2, 4, 6, 8] = bad
    maxima = no_maxima(ours)
    library.bias_relu_backward_(ours, oracle.packed(passes, 1), tap, None, None, maxima)
    assert ours[:2, 2, 3, 4].eq(0).all()
    assert ours[:2].isfinite().all() and torch.equal(maxima[:2], expected_maxima(ours[:2]))
    assert not maxima[2].isfinite()
    assert (~ours[2].isfinite()).sum() == 1


@dtypes
def test_a_maximum_that_is_nan_stays(dtype: torch.dtype, device: str, native: str) -> None:
    grad = normal_map((2, 5, 7, 9), dtype, device)
    maxima = no_maxima(grad)
    maxima[0] = float("nan")
    passes = torch.ones_like(grad, dtype=torch.bool)
    library.bias_relu_backward_(grad, oracle.packed(passes, 1), None, None, None, maxima)
    assert maxima[0].isnan() and maxima[1] == expected_maxima(grad)[1]


# All of them


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(layout: str, device: str, native: str) -> None:
    """What is only read may lie as it likes."""
    shape, view = (2, 5, 8, 6), LAYOUTS[layout]
    x, tap, below = (normal_map(shape, torch.bfloat16, device, seed) for seed in range(3))
    pooling = ("blur", 2, 2)
    ours, codes = library.bias_relu_pool(view(x), None, True, *pooling, True)
    expected = library.bias_relu_pool(x, None, True, *pooling, True)
    assert torch.equal(ours, expected[0]) and torch.equal(codes, expected[1])
    signs = oracle.packed(oracle.passes(x), 1)
    spread = signs.repeat_interleave(2, dim=1)[:, ::2]

    flat = [x.clone(), x.clone()]
    library.bias_relu_backward_(flat[0], signs, tap, below, None, None)
    library.bias_relu_backward_(flat[1], spread, view(tap), view(below), None, None)
    assert torch.equal(*flat)
    pooled = [x.clone(), x.clone()]
    grad, spread_codes = normal_map(tuple(ours.shape), torch.bfloat16, device, 3), codes.mT.contiguous().mT
    library.bias_relu_pool_backward_(pooled[0], grad, codes, signs, True, below, None, *pooling, None)
    settings = (spread_codes, spread, True, view(below), None)
    library.bias_relu_pool_backward_(pooled[1], view(grad), *settings, *pooling, None)
    assert torch.equal(*pooled)


def results(device: str) -> list[Tensor]:
    """What every operator makes of one batch."""
    shape = (2, 37, 66, 65)
    x, tap = (normal_map(shape, torch.bfloat16, device, seed) for seed in (1, 2))
    found = []
    for pooling in [("max", 2, 2), ("max", 3, 2), ("average", 3, 2), ("blur", 2, 2)]:
        value, codes = library.bias_relu_pool(x, x[0, :, 0, 0], True, *pooling, True)
        signs = library.bias_relu_(map_ := x.clone(), None, True)
        gradient, maxima = tap.clone(), no_maxima(tap)
        settings = (None if pooling[0] == "average" else codes, signs, True, tap, None)
        library.bias_relu_pool_backward_(gradient, value, *settings, *pooling, maxima)
        kept = x.clone()
        found += [value, codes, map_, gradient, maxima, kept, *library.bias_relu_pool_(kept, None, *pooling, True)]
    found.append(maxima := no_maxima(tap))
    library.bias_relu_backward_(gradient, signs, tap, tap, None, maxima)
    scale = torch.rand(shape[1], generator=torch.Generator().manual_seed(0)).to(device)
    found.append(library.normalize_images(x, scale, scale, torch.bfloat16))
    found.append(library.normalize_images_backward(gradient, x, scale, None, tap))
    return [*found, gradient]


def test_same_bits_every_time(device: str, native: str) -> None:
    threads = torch.get_num_threads()
    first = results(device)
    try:
        for count in (1, 2, threads):
            torch.set_num_threads(count)
            assert all(torch.equal(a, b) for a, b in zip(first, results(device), strict=True))
    finally:
        torch.set_num_threads(threads)


def test_opcheck(device: str, native: str) -> None:
    x, images = normal_map((2, 5, 8, 7), torch.bfloat16, device), random_map((2, 5, 8, 7), torch.float32, device)
    scale, factor = torch.rand(5, device=device), torch.rand(2, device=device)
    opcheck(library.normalize_images.default, (images, scale, scale, torch.float16))
    opcheck(library.normalize_images_backward.default, (x, images, scale, factor, x))
    for wanted in (True, False):
        maxima = no_maxima(x) if wanted else None
        opcheck(library.bias_relu_.default, (x, scale, wanted))
        signs = library.bias_relu_(x.clone(), None, True)
        opcheck(library.bias_relu_backward_.default, (x, signs, images.bfloat16(), None, factor, maxima))
        for pooling in [("max", 3, 2), ("max", 4, 3), ("average", 2, 2), ("blur", 2, 2)]:
            opcheck(library.bias_relu_pool.default, (x, scale, True, *pooling, wanted))
            opcheck(library.bias_relu_pool_.default, (x, scale, *pooling, wanted))
            value, codes = library.bias_relu_pool(x, scale, True, *pooling, True)
            arguments = (value, codes, signs, True, None, factor, *pooling, maxima)
            opcheck(library.bias_relu_pool_backward_.default, (x, *arguments))


@pytest.mark.usefixtures("library")
def test_refusals(device: str, native: str) -> None:
    x = normal_map((2, 5, 8, 6), torch.float32, device)
    nchw, crop, apart = x.contiguous(), nhwc(torch.cat([x, x], 3))[..., :6], torch.cat([x, x])[::2]
    five, two = torch.ones(5, device=device), torch.ones(2, device=device)
    pooled, codes = library.bias_relu_pool(x, None, True, "max", 2, 2, True)
    signs = library.bias_relu_(x.clone(), None, True)

    def refuses(sentence: str, operator: Callable[..., object], *arguments: object) -> None:
        with pytest.raises(RuntimeError, match=sentence):
            operator(*arguments)

    for strided in (nchw, crop, apart):
        refuses("x: it is written in place and must be dense in channels_last", library.bias_relu_, strided, None, True)
    relu, backward = library.bias_relu_, library.bias_relu_backward_
    refuses("x: expected .N, C, H, W., got 3 dimensions", relu, x[0], None, True)
    refuses("x: expected dtype", relu, x.to(torch.int32), None, True)
    refuses("bias: expected .5.", relu, x, two, True)
    refuses("bias: expected dtype", relu, x, five.to(torch.int32), True)
    refuses("grad: it is written in place", backward, nchw, signs, None, None, None, None)
    refuses("signs: expected .2, 30.", backward, x, signs[:, 1:], None, None, None, None)
    refuses("signs: expected dtype uint8", backward, x, signs.to(torch.int32), None, None, None, None)
    refuses("tap: expected .2, 5, 8, 6.", backward, x, signs, x[:1], None, None, None)
    refuses("below: expected the dtype", backward, x, signs, None, x.half(), None, None)
    refuses("factor: expected .2.", backward, x, signs, None, None, five, None)
    refuses("factor: expected float32", backward, x, signs, None, None, two.double(), None)
    refuses("maxima: expected .2., contiguous", backward, x, signs, None, None, None, five)
    refuses("maxima: expected float32", backward, x, signs, None, None, None, two.double())

    kept, before = library.bias_relu_pool_, x.clone()
    refuses("x: it is written in place", kept, nchw, None, "max", 2, 2, True)
    refuses("kind: expected max, average or blur, got min", kept, x, None, "min", 2, 2, True)
    refuses("x: expected at least 7 pixels .* got 8 x 6", kept, x, None, "max", 7, 2, True)
    refuses("bias: expected .5.", kept, x, two, "max", 2, 2, True)
    assert torch.equal(x, before)

    pool, unpool = library.bias_relu_pool, library.bias_relu_pool_backward_
    refuses("kind: expected max, average or blur, got min", pool, x, None, True, "min", 2, 2, True)
    refuses("kernel: expected 1 to 15, got 16", pool, x, None, True, "max", 16, 2, True)
    refuses("kernel: expected 1 to 15, got 0", pool, x, None, True, "max", 0, 2, True)
    refuses("stride: expected at least 1, got 0", pool, x, None, True, "max", 2, 0, True)
    refuses("x: expected at least 7 pixels .* got 8 x 6", pool, x, None, True, "max", 7, 2, True)
    refuses("x: expected at least 7 pixels .* kind blur", pool, x, None, True, "blur", 5, 2, True)
    refuses("bias: expected .5.", pool, x, two, True, "max", 2, 2, True)

    def unpooled(x: Tensor, *given: Tensor | None) -> Callable[[], object]:
        return lambda: unpool(x, *given, True, None, None, "max", 2, 2, None)

    refuses("x: it is written in place", unpooled(nchw, pooled, codes, signs))
    refuses("grad: expected .2, 5, 4, 3.", unpooled(x, x, codes, signs))
    refuses("grad: expected the dtype", unpooled(x, pooled.half(), codes, signs))
    refuses("codes: expected those of the forward pass", unpooled(x, pooled, None, signs))
    refuses("codes: expected .2, 30.", unpooled(x, pooled, codes[:, 1:], signs))
    refuses("signs: expected .2, 30.", unpooled(x, pooled, codes, signs[:1]))

    normalize, denormalize = library.normalize_images, library.normalize_images_backward
    refuses("scale: expected .5.", normalize, x, two, five, torch.float32)
    refuses("shift: expected dtype float32 or float64", normalize, x, five, five.half(), torch.float32)
    refuses("dtype: expected dtype", normalize, x, five, five, torch.int32)
    refuses("images: expected dtype", normalize, x.to(torch.int32), five, five, torch.float32)
    refuses("grad: expected .2, 5, 8, 6.", denormalize, x[:1], x, five, None, None)
    refuses("add: expected .2, 5, 8, 6.", denormalize, x, x, five, None, x[:1])
    refuses("factor: expected .2.", denormalize, x, x, five, five, None)
