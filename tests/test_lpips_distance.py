"""What is special about LPIPS: pixels without features, lengths out of range, small differences, maps, gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from maps import DTYPES, LAYOUTS, assert_accurate, random_map, relative_error
from operators import channel_weights, naive_lpips, wide
from torch import Tensor

import perceptual_ops as po

Distance = Callable[[Tensor, Tensor], Tensor]  # (N, C, H, W) twice -> (N)

# As in the package lpips and in torchmetrics.
EPS = [(1e-10, False), (1e-8, True)]
eps_kinds = pytest.mark.parametrize(("eps", "eps_inside"), EPS, ids=["outside", "inside"])


def weights_of(x: Tensor) -> Tensor:
    return channel_weights([x], 5)[0]


def distance_of(backend: str, eps: float = 1e-10, eps_inside: bool = False) -> Distance:
    return lambda x, y: po.lpips_distance([x], [y], [weights_of(x)], eps, eps_inside, backend=backend)


def naive_of(eps: float = 1e-10, eps_inside: bool = False) -> Distance:
    return lambda x, y: naive_lpips(x, y, weights_of(x), eps, eps_inside)


def value_and_gradients(distance: Distance, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distances and their gradients with respect to both maps, for upstream gradients other than 1."""
    leaves = [z.detach().requires_grad_() for z in (x, y)]
    value = distance(*leaves)
    upstream = random_map(tuple(value.shape), torch.float64, str(x.device), 3).to(value.dtype)
    return value.detach(), *torch.autograd.grad(value, leaves, upstream)


def exact_results(x: Tensor, y: Tensor, eps: float = 1e-10, eps_inside: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    return value_and_gradients(distance_of("reference", eps, eps_inside), x.double(), y.double())


# Blocks of pixels that end inside the map, channels beyond a block, one pixel.
@eps_kinds
@pytest.mark.parametrize("layouts", [("nhwc", "nhwc"), ("nchw", "nchw"), ("nhwc", "cropped"), ("batch inside", "nhwc")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(
    dtype: torch.dtype, layouts: tuple[str, str], eps: float, eps_inside: bool, native: str, device: str
) -> None:
    for shape, target_batch in (((2, 64, 13, 11), 2), ((3, 512, 5, 7), 1), ((1, 2100, 3, 5), 1), ((2, 3, 1, 1), 1)):
        x = LAYOUTS[layouts[0]](random_map(shape, dtype, device, 1))
        y = LAYOUTS[layouts[1]](random_map((target_batch, *shape[1:]), dtype, device, 2))
        ours = value_and_gradients(distance_of(native, eps, eps_inside), x, y)
        naive = value_and_gradients(naive_of(eps, eps_inside), x, y)
        for mine, theirs, exact in zip(ours, naive, exact_results(x, y, eps, eps_inside), strict=True):
            assert_accurate(mine, theirs, exact)
        assert ours[1].stride() == torch.empty_like(x).stride()


@eps_kinds
def test_numbers_are_those_of_the_peers(eps: float, eps_inside: bool, backend: str, device: str) -> None:
    """lpips divides by the length plus 1e-10, torchmetrics by the root of 1e-8 plus the squares; small lengths tell."""
    x, y = (1e-5 * random_map((2, 6, 4, 5), torch.float64, device, seed) for seed in (1, 2))
    ours = value_and_gradients(distance_of(backend, eps, eps_inside), x, y)
    for mine, theirs in zip(ours, value_and_gradients(naive_of(eps, eps_inside), x, y), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_defaults_are_those_of_lpips(backend: str, device: str) -> None:
    x, y = (1e-9 * random_map((2, 6, 4, 5), torch.float64, device, seed) for seed in (1, 2))
    torch.testing.assert_close(po.lpips_distance([x], [y], [weights_of(x)], backend=backend), naive_of()(x, y))


def assert_zero_pixels_are_quiet(distance: Distance, dtype: torch.dtype, device: str) -> None:
    """Signed maps, as before a ReLU, with pixels whose features are all 0, in x, in y and in both."""
    x, y = random_map((2, 6, 3, 4), dtype, device, 1), random_map((2, 6, 3, 4), dtype, device, 2)
    x[0, :, 0, :2] = y[0, :, 0, 1:3] = 0.0
    with torch.autograd.detect_anomaly(check_nan=True):
        value, by_x, by_y = value_and_gradients(distance, x, y)
    assert value.isfinite().all()
    for gradient, z in ((by_x, x), (by_y, y)):
        nothing = (z == 0).all(1, keepdim=True).expand_as(z)
        assert gradient.isfinite().all()
        assert gradient[nothing].eq(0).all()
        assert gradient[~nothing].ne(0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_gradient_where_there_are_no_features(dtype: torch.dtype, backend: str, device: str) -> None:
    assert_zero_pixels_are_quiet(distance_of(backend), dtype, device)


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected")
def test_that_test_fails_for_the_naive_formula(device: str) -> None:
    with pytest.raises(RuntimeError, match="returned nan"):
        assert_zero_pixels_are_quiet(naive_of(), torch.float32, device)


@eps_kinds
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_maps_without_features(dtype: torch.dtype, eps: float, eps_inside: bool, backend: str, device: str) -> None:
    x = torch.zeros((2, 64, 5, 7), dtype=dtype, device=device)
    for result in value_and_gradients(distance_of(backend, eps, eps_inside), x, x):
        assert result.eq(0).all()


def test_fp16_lengths_do_not_overflow(backend: str, device: str) -> None:
    """512 channels of value 12: the squares sum to 73,728, beyond fp16."""
    x = torch.full((1, 512, 3, 3), 12.0, dtype=torch.float16, device=device)
    y = x.clone()
    y[:, ::2] = -12.0
    expected = 4 * weights_of(x)[::2].sum() / 512
    torch.testing.assert_close(distance_of(backend)(x, y), expected.expand(1), rtol=1e-6, atol=0)
    gradients = value_and_gradients(distance_of(backend), x, y)[1:]
    assert all(gradient.isfinite().all() and gradient.ne(0).any() for gradient in gradients)


@eps_kinds
@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1e-8, 1e-4])
def test_tiny_features(scale: float, eps: float, eps_inside: bool, backend: str, device: str) -> None:
    x = scale * random_map((2, 6, 3, 4), torch.float32, device, 1)
    for y in (random_map((2, 6, 3, 4), torch.float32, device, 2), 0.5 * x.flip(1)):
        ours = value_and_gradients(distance_of(backend, eps, eps_inside), x, y)
        for mine, exact in zip(ours, exact_results(x, y, eps, eps_inside), strict=True):
            assert relative_error(mine, exact) < 1e-4


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_no_length_overflows_or_vanishes(scale: float, dtype: torch.dtype, layout: str, library: None) -> None:
    """Their squares are beyond fp32."""
    x, y = (LAYOUTS[layout](scale * random_map((2, 6, 3, 4), dtype, "cpu", seed)) for seed in (1, 2))
    ours = value_and_gradients(distance_of("native", 1e-30), x, y)
    for mine, exact in zip(ours, exact_results(x, y, 1e-30), strict=True):
        assert relative_error(mine, exact) < 4 * torch.finfo(dtype).eps


@eps_kinds
@pytest.mark.parametrize("step", [1e-3, 1e-5])
def test_small_differences_keep_their_digits(
    step: float, eps: float, eps_inside: bool, native: str, device: str
) -> None:
    """Unit features in fp32, then subtracted, would have lost three digits of five."""
    x = random_map((2, 64, 9, 7), torch.float32, device, 1)
    y = x * (1 + step * random_map((2, 64, 9, 7), torch.float32, device, 2))
    ours = value_and_gradients(distance_of(native, eps, eps_inside), x, y)
    naive = value_and_gradients(naive_of(eps, eps_inside), x, y)
    for mine, theirs, exact in zip(ours, naive, exact_results(x, y, eps, eps_inside), strict=True):
        assert_accurate(mine, theirs, exact)
        assert mine.shape != (2,) or relative_error(mine, exact) < 1e-2 * step / 1e-3


def two_layers(dtype: torch.dtype, device: str, layout: str = "nhwc") -> tuple[list[Tensor], list[Tensor]]:
    """Features and targets; the second layer's target serves the whole batch."""
    shapes = [(3, 6, 4, 5), (3, 70, 3, 2)]
    maps = [LAYOUTS[layout](random_map(shape, dtype, device, i)) for i, shape in enumerate(shapes)]
    return maps, [
        random_map((batch, *x.shape[1:]), dtype, device, 5 + batch) for batch, x in zip((3, 1), maps, strict=True)
    ]


@eps_kinds
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "sliced nhwc", "batch inside"])
def test_maps_of_distances(layout: str, eps: float, eps_inside: bool, native: str, device: str) -> None:
    """Each pixel has its own upstream number, in strides of every kind."""
    maps, targets = two_layers(torch.float64, device, layout)
    weights = channel_weights(maps, 5)
    leaves = [z.detach().requires_grad_() for z in (*maps, *targets)]

    def pixels_of(backend: str) -> list[Tensor]:
        return po.lpips_distance(leaves[:2], leaves[2:], weights, eps, eps_inside, spatial=True, backend=backend)

    pixels, exact = pixels_of(native), pixels_of("reference")
    upstream = [LAYOUTS[layout](random_map(tuple(one.shape), one.dtype, device, 9)) for one in pixels]
    upstream[1] = upstream[1][:1].expand(3, -1, -1, -1)
    assert [tuple(one.shape) for one in pixels] == [(3, 1, 4, 5), (3, 1, 3, 2)]
    torch.testing.assert_close(pixels, exact)
    torch.testing.assert_close(
        torch.autograd.grad(pixels, leaves, upstream), torch.autograd.grad(exact, leaves, upstream)
    )
    whole = po.lpips_distance(maps, targets, weights, eps, eps_inside, backend=native)
    torch.testing.assert_close(sum(one.mean((1, 2, 3)) for one in pixels), whole)


def test_one_map_of_several(native: str, device: str) -> None:
    """The layers whose distances are not used have a gradient of 0."""
    maps, targets = two_layers(torch.float32, device)
    leaves = [x.requires_grad_() for x in maps]
    pixels = po.lpips_distance(leaves, targets, channel_weights(maps, 5), spatial=True, backend=native)
    first, second = torch.autograd.grad(pixels[1].sum(), leaves, materialize_grads=True)
    assert first.eq(0).all()
    assert second.ne(0).any()


@pytest.mark.parametrize("spatial", [False, True])
def test_gradients_by_targets_alone(spatial: bool, native: str, device: str) -> None:
    maps, targets = two_layers(torch.float64, device)
    leaves = [y.requires_grad_() for y in targets]

    def gradients(backend: str) -> tuple[Tensor, ...]:
        found = po.lpips_distance(maps, leaves, channel_weights(maps, 5), spatial=spatial, backend=backend)
        return torch.autograd.grad(sum(one.square().sum() for one in found), leaves)

    torch.testing.assert_close(gradients(native), gradients("reference"))


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "sliced nchw", "cropped"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_pass_agrees_with_two(dtype: torch.dtype, layout: str, native: str, device: str) -> None:
    library = torch.ops.perceptual_ops
    maps, targets = two_layers(dtype, device, layout)
    weights = channel_weights(maps, 5)
    grad = random_map((3,), torch.float64, device, 8).to(wide(maps[0]))
    for eps, eps_inside in EPS:
        settings = (maps, targets, weights, eps, eps_inside)
        alone = library.lpips_distance(*settings)
        for wanted in ((True, False), (False, True), (True, True)):
            loss, per_layer, *gradients = library.lpips_distance_with_gradient(*settings, grad, *wanted)
            assert torch.equal(loss, alone[0])
            assert torch.equal(per_layer, alone[1])
            separate = library.lpips_distance_backward(grad, *settings, *wanted)
            for mine, theirs, asked in zip(gradients, separate, wanted, strict=True):
                assert len(mine) == len(theirs) == (2 if asked else 0)
                assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
                assert all(a.stride() == torch.empty_like(x).stride() for a, x in zip(mine, maps, strict=False))
        ones = library.lpips_distance_with_gradient(*settings, torch.ones_like(grad), True, False)[2]
        for mine, theirs in zip(
            library.lpips_distance_with_gradient(*settings, None, True, False)[2], ones, strict=True
        ):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bad_features_stay_in_their_pixel(layout: str, bad: float, native: str, device: str) -> None:
    x, y = (LAYOUTS[layout](random_map((2, 6, 3, 4), torch.float32, device, seed)) for seed in (1, 2))
    x[1, :, 0, 0] = 0.0
    x[1, 2, 1, 3] = y[1, 0, 0, 0] = bad  # the second where x has no features
    leaves = [z.requires_grad_() for z in (x, y)]
    (pixels,) = po.lpips_distance(leaves[:1], leaves[1:], [weights_of(x)], spatial=True, backend=native)
    hit = torch.zeros_like(pixels, dtype=torch.bool)
    hit[1, 0, 1, 3] = hit[1, 0, 0, 0] = True
    assert torch.equal(~pixels.isfinite(), hit)
    for gradient in torch.autograd.grad(pixels.sum(), leaves):
        assert torch.equal(~gradient.isfinite(), hit.expand_as(gradient))


def test_empty_batch(native: str, device: str) -> None:
    library = torch.ops.perceptual_ops
    x, y, weights = torch.ones((0, 3, 4, 5), device=device), torch.ones((1, 3, 4, 5), device=device), [torch.ones(3)]
    settings = ([x], [y], [one.to(device) for one in weights], 1e-10, False)
    loss, per_layer, (dx,), (dy,) = library.lpips_distance_with_gradient(*settings, None, True, True)
    assert (loss.shape, per_layer.shape, dx.shape, dy.shape) == ((0,), (1, 0), x.shape, x.shape)
    (pixels,) = library.lpips_map(*settings)
    assert pixels.shape == (0, 1, 4, 5)
    (dx,), (dy,) = library.lpips_map_backward([pixels], *settings, True, True)
    assert dx.shape == dy.shape == x.shape


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reduction(reduction: str, backend: str, device: str) -> None:
    x, y = random_map((4, 3, 5, 5), torch.float32, device, 1), random_map((4, 3, 5, 5), torch.float32, device, 2)
    weights = [weights_of(x).view(1, -1, 1, 1)]
    each = naive_of()(x, y)
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    torch.testing.assert_close(po.lpips_distance([x], [y], weights, reduction=reduction, backend=backend), expected)
    empty = po.lpips_distance([x[:0]], [y[:0]], weights, reduction=reduction, backend=backend)
    assert torch.equal(empty, torch.zeros(expected.shape if reduction != "none" else (0,), device=device))
