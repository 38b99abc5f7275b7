"""Values and gradients of every operator, in every dtype, shape and memory layout, against the fp64 reference."""

from __future__ import annotations

import pytest
import torch
from maps import DTYPES, LAYOUTS, SHAPES, assert_accurate, random_map, relative_error
from operators import OPERATORS, Operator, naive_runs, run_native, run_reference, value_and_gradient

import perceptual_ops as po

operators = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)


def layers_of(shape: tuple[int, ...], dtype: torch.dtype, device: str, scale: float = 1.0) -> list[torch.Tensor]:
    """Two layers of one batch; the second has a target for the whole batch."""
    second = (shape[0], shape[1] + 2, max(1, shape[2] // 2), max(1, shape[3] // 2))
    return [scale * random_map(shape, dtype, device, 1), scale * random_map(second, dtype, device, 2)]


@operators
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(operator: Operator, dtype: torch.dtype, device: str, native: str) -> None:
    for shape in SHAPES:
        maps = layers_of(shape, dtype, device)
        exact = value_and_gradient(lambda xs: run_reference(operator, xs), [x.double() for x in maps])
        ours = value_and_gradient(lambda xs: run_native(operator, xs), maps)
        for mine, truth, *naive in zip(
            (ours[0], *ours[1]), (exact[0], *exact[1]), *naive_runs(operator, maps), strict=False
        ):
            assert_accurate(mine, naive[0], truth, *naive[1:])


@operators
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(operator: Operator, layout: str, dtype: torch.dtype, device: str, native: str) -> None:
    """Strides change neither the accuracy nor the caller's tensor. A naive run on the same strides is the measure."""
    for shape in [(2, 5, 7, 9), (3, 4, 6, 1), (2, 1, 3, 5), (2, 6, 1, 1)]:
        views = [LAYOUTS[layout](x) for x in layers_of(shape, dtype, device)]
        copies = [x.clone() for x in views]
        exact = value_and_gradient(lambda xs: run_reference(operator, xs), [x.double() for x in views])
        (naive, *naive_gradients), *others = naive_runs(operator, views)
        value, gradients = value_and_gradient(lambda xs: run_native(operator, xs), views)
        assert_accurate(value, naive, exact[0], *(other[0] for other in others))
        more = [[other[i] for other in others] for i in range(1, 1 + len(views))]
        for x, gradient, theirs, truth, copy, of_more in zip(
            views, gradients, naive_gradients, exact[1], copies, more, strict=True
        ):
            assert gradient.dtype == dtype
            assert_accurate(gradient, theirs, truth, *of_more)
            assert gradient.stride() == torch.empty_like(x).stride()
            assert torch.equal(x, copy)


# Several tiles along both axes of the Gram, more stages than a pipeline holds, tiles in several pieces, aligned lines.
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "operator", [one for one in OPERATORS if one.name in ("gram-chw", "style-mse")], ids=lambda operator: operator.name
)
def test_tiles_and_stages(operator: Operator, dtype: torch.dtype, layout: str, device: str, native: str) -> None:
    maps = [
        LAYOUTS[layout](random_map(shape, dtype, device, i))
        for i, shape in enumerate([(2, 300, 16, 64), (2, 64, 32, 64)])
    ]
    exact = value_and_gradient(lambda xs: run_reference(operator, xs), [x.double() for x in maps])
    ours = value_and_gradient(lambda xs: run_native(operator, xs), maps)
    naive = value_and_gradient(operator.naive, maps)
    for mine, theirs, truth in zip((ours[0], *ours[1]), (naive[0], *naive[1]), (exact[0], *exact[1]), strict=False):
        assert_accurate(mine, theirs, truth)


@operators
def test_expanded_batch_has_the_gradient_of_its_copies(operator: Operator, device: str, native: str) -> None:
    one = [x[:1] for x in layers_of((1, 5, 6, 7), torch.float32, device)]
    expanded = value_and_gradient(lambda xs: run_native(operator, [x.expand(3, -1, -1, -1) for x in xs]), one)
    copied = value_and_gradient(lambda xs: run_native(operator, [x.repeat(3, 1, 1, 1) for x in xs]), one)
    torch.testing.assert_close(expanded, copied)


@operators
def test_reference_agrees_with_the_naive_formula(operator: Operator, device: str) -> None:
    maps = layers_of((3, 4, 5, 6), torch.float64, device)
    ours = value_and_gradient(lambda xs: run_reference(operator, xs), maps)
    naive = value_and_gradient(operator.naive, maps)
    torch.testing.assert_close(ours[0], naive[0], rtol=1e-12, atol=0)
    for mine, theirs in zip(ours[1], naive[1], strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@operators
def test_empty_batch(operator: Operator, backend: str, device: str) -> None:
    x = torch.empty((0, 3, 4, 5), device=device, requires_grad=True)
    value = operator.run(po, [x], backend=backend)
    assert value.shape[0] == 0
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reduction(reduction: str, backend: str, device: str) -> None:
    x, y = random_map((4, 3, 5, 5), torch.float32, device, 1), random_map((4, 3, 5, 5), torch.float32, device, 2)
    each = ((x - y) ** 2).flatten(1).mean(1)
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    torch.testing.assert_close(po.feature_loss([x], [y], reduction=reduction, backend=backend), expected)
    empty = po.feature_loss([x[:0]], [y[:0]], reduction=reduction, backend=backend)
    assert torch.equal(empty, torch.zeros(expected.shape if reduction != "none" else (0,), device=device))


@operators
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_every_time(operator: Operator, dtype: torch.dtype, device: str, native: str) -> None:
    maps = layers_of((2, 70, 33, 31), dtype, device)
    first = value_and_gradient(lambda xs: run_native(operator, xs), maps)
    for _ in range(5):
        again = value_and_gradient(lambda xs: run_native(operator, xs), maps)
        assert torch.equal(first[0], again[0])
        assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))


@pytest.mark.parametrize("distance", ["mse", "l1", "charbonnier", "huber", "sse"])
def test_targets_receive_their_gradient(distance: str, backend: str, device: str) -> None:
    x = random_map((3, 4, 5, 6), torch.float64, device, 1).requires_grad_()
    for batch in (1, 3):
        y = random_map((batch, 4, 5, 6), torch.float64, device, 2).requires_grad_()
        upstream = torch.tensor([0.3, -2.0, 1.7], dtype=torch.float64, device=device)
        ours = po.feature_loss([x], [y], [0.6], distance, "none", eps=0.2, delta=0.5, backend=backend)
        exact = po.reference.feature_loss([x], [y], [0.6], distance, "none", eps=0.2, delta=0.5)
        torch.testing.assert_close(
            torch.autograd.grad(ours, [x, y], upstream), torch.autograd.grad(exact, [x, y], upstream)
        )


def test_zero_features_have_finite_gradients(backend: str, device: str) -> None:
    x = torch.zeros((2, 3, 4, 4), device=device, requires_grad=True)
    gram = torch.zeros((1, 3, 3), device=device)
    with torch.autograd.detect_anomaly(check_nan=True):
        for distance in ("mse", "l1", "charbonnier", "huber", "sse"):
            loss = po.style_loss([x], [gram], distance=distance, backend=backend)
            loss = loss + po.feature_loss([x], [x.detach()], distance=distance, backend=backend)
            assert torch.autograd.grad(loss, x)[0].eq(0).all()
        for kind in ("l1", "l2", "l2_squared"):
            variation = po.total_variation(x, kind, backend=backend)
            assert torch.autograd.grad(variation, x)[0].eq(0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@operators
def test_nan_and_inf_stay_in_their_sample(operator: Operator, bad: float, device: str, native: str) -> None:
    """A bad number makes its own sample's value not finite, as in the reference, and leaves the others alone."""
    maps = layers_of((3, 4, 5, 6), torch.float32, device)
    clean = value_and_gradient(lambda xs: run_native(operator, xs), maps)
    maps[0][1, 2, 3, 4] = bad
    ours = value_and_gradient(lambda xs: run_native(operator, xs), maps)
    exact = value_and_gradient(lambda xs: run_reference(operator, xs), maps)
    assert not ours[0][1].isfinite().all()
    assert torch.equal(ours[0].isfinite(), exact[0].isfinite())
    assert torch.equal(ours[1][0].isfinite(), exact[1][0].isfinite())
    for sample in (0, 2):
        torch.testing.assert_close(ours[0][sample], clean[0][sample])
        torch.testing.assert_close(ours[1][0][sample], clean[1][0][sample])


def test_fp16_gram_does_not_overflow(backend: str, device: str) -> None:
    """512 channels of value 12 over 64 x 64 pixels: the raw sum, 589,824, is beyond fp16."""
    x = torch.full((1, 512, 64, 64), 12.0, dtype=torch.float16, device=device)
    torch.testing.assert_close(
        po.gram_matrix(x, "none", backend=backend), torch.full((1, 512, 512), 144.0 * 4096, device=device)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_many_positive_pixels_do_not_drift(dtype: torch.dtype, device: str, native: str) -> None:
    """65,536 positive pixels: a sum in one fp32 accumulator would be off in the fourth digit."""
    x = random_map((1, 8, 256, 256), torch.float64, device).abs().to(dtype)
    exact = po.reference.gram_matrix(x.double())
    assert relative_error(po.gram_matrix(x, backend=native), exact) < 2e-6


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", [(2, 40, 93, 101), (40, 3, 33, 1), (1, 600, 9, 7), (1, 2100, 3, 5)], ids=str)
def test_bf16_products(shape: tuple[int, ...], layout: str, device: str, native: str) -> None:
    """Sums in fp32 whatever makes the products: many blocks, a batch beyond them, channels beyond a block."""
    x = LAYOUTS[layout](random_map(shape, torch.bfloat16, device)).requires_grad_()
    gram = po.gram_matrix(x, backend=native)
    upstream = random_map(tuple(gram.shape), torch.float32, device, 1)
    (gradient,) = torch.autograd.grad(gram, x, upstream)
    exact_x = x.detach().double().requires_grad_()
    exact = po.reference.gram_matrix(exact_x)
    assert relative_error(gram.detach(), exact.detach()) < 1e-6
    assert relative_error(gradient, torch.autograd.grad(exact, exact_x, upstream.double())[0]) < 2**-8
    assert torch.equal(gram, gram.mT)


@pytest.mark.parametrize("other_layout", ["nchw", "nhwc", "sliced nchw"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_style_gradient_is_added_to_another(
    dtype: torch.dtype, layout: str, other_layout: str, native: str, device: str
) -> None:
    """With one rounding. A layer without another gradient stays as it is."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = LAYOUTS[layout](random_map((2, 40, 17, 19), dtype, device))
    other = LAYOUTS[other_layout](random_map((2, 40, 17, 19), dtype, device, 1))
    half, grad = random_map((2, 40, 40), wide, device, 2) / 40, torch.tensor([0.5, 3.0], dtype=wide, device=device)
    slopes = (half + half.mT).bfloat16().to(wide)  # which products of 16 bits keep
    found, plain = torch.ops.perceptual_ops.style_loss_backward(grad, [x, x], [slopes, slopes], [other, None])
    product = (grad.double().view(-1, 1, 1) * slopes.double() @ x.double().flatten(2)).view(x.shape)
    if dtype.itemsize > 2:
        assert relative_error(found, product + other.double()) < 1e-6
    else:
        # A product that is rounded before it is added gives other bits in one of three places or so.
        assert (found != (product + other.double()).to(dtype)).double().mean() < 0.02
    assert torch.equal(plain, torch.ops.perceptual_ops.style_loss_backward(grad, [x], [slopes], [None])[0])
    assert found.stride() == x.stride()


def test_bf16_gradient_multiplies_by_the_fp32_matrix(library: None) -> None:
    """1 + 2^-10 is no bf16 number; less 1 it is."""
    upstream = torch.tensor([[[1 + 2**-10, -1.0], [-1.0, 1 + 2**-10]]]) / 2
    x = torch.ones((1, 2, 1, 1), dtype=torch.bfloat16)
    assert torch.ops.perceptual_ops.gram_matrix_backward(upstream, x, "none").eq(2**-10).all()


def test_long_rows_do_not_drift(device: str, native: str) -> None:
    x = random_map((1, 1, 1, 2**20), torch.float32, device)
    exact = po.reference.total_variation(x.double())
    assert relative_error(po.total_variation(x, backend=native), exact) < 1e-6


def test_autocast_changes_nothing(backend: str, device: str) -> None:
    x = random_map((2, 40, 17, 19), torch.float32, device).requires_grad_()
    gram = random_map((1, 40, 40), torch.float32, device, 9)

    def losses() -> torch.Tensor:
        return po.gram_matrix(x, backend=backend).sum() + po.style_loss([x], [gram], backend=backend)

    plain, (gradient,) = losses(), torch.autograd.grad(losses(), x)
    with torch.autocast(device, dtype=torch.bfloat16):
        cast = losses()
        if backend == "native":  # plain torch casts in a backward that runs inside the context
            assert torch.equal(torch.autograd.grad(losses(), x)[0], gradient)
    assert torch.equal(plain, cast)
    assert torch.equal(torch.autograd.grad(cast, x)[0], gradient)
