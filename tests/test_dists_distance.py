"""What is special about DISTS: statistics that must survive large means and small differences, and two gradients."""

from __future__ import annotations

import pytest
import torch
from maps import DTYPES, LAYOUTS, assert_accurate, random_map, relative_error
from operators import channel_weights, naive_dists
from torch import Tensor

import perceptual_ops as po

# Several blocks and parts of blocks in either layout, few channels, one pixel.
SHAPES = [(2, 64, 50, 43), (1, 512, 17, 16), (2, 7, 33, 40), (2, 3, 9, 130), (1, 2100, 2, 9), (3, 8, 1, 1)]


def weights_of(x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """alpha and beta of one layer."""
    return channel_weights([x], 3), channel_weights([x], 4)


def value_and_gradients(x: Tensor, y: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """The distances and their gradients with respect to both maps, for upstream gradients other than 1."""
    leaves = [z.detach().requires_grad_() for z in (x, y)]
    value = (
        naive_dists(*leaves, *(one[0] for one in weights_of(x)))
        if backend == "naive"
        else po.dists_distance(leaves[:1], leaves[1:], *weights_of(x), backend=backend)
    )
    upstream = random_map(tuple(value.shape), torch.float64, str(x.device), 3).to(value.dtype)
    return value.detach(), *torch.autograd.grad(value, leaves, upstream)


def exact_statistics(x: Tensor, y: Tensor) -> Tensor:  # (N, 6, C)
    x, y = x.double().flatten(2), y.double().flatten(2)
    maps = (x, y.expand_as(x), x - y)
    return torch.stack([*(z.mean(2) for z in maps), *(z.var(2, correction=0) for z in maps)], 1)


def statistics_of(x: Tensor, y: Tensor) -> Tensor:
    return torch.ops.perceptual_ops.dists_distance([x], [y], *weights_of(x))[2][0]


@pytest.mark.parametrize("layouts", [("nhwc", "nhwc"), ("nchw", "nchw"), ("sliced nhwc", "cropped"), ("nchw", "nhwc")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(dtype: torch.dtype, layouts: tuple[str, str], native: str, device: str) -> None:
    for target_batch, shape in enumerate(SHAPES):
        x = LAYOUTS[layouts[0]](random_map(shape, dtype, device, 1))
        y = LAYOUTS[layouts[1]](random_map((1 if target_batch % 2 else shape[0], *shape[1:]), dtype, device, 2))
        ours, naive = value_and_gradients(x, y, native), value_and_gradients(x, y, "naive")
        exact = value_and_gradients(x.double(), y.double(), "reference")
        for mine, theirs, truth in zip(ours, naive, exact, strict=True):
            assert_accurate(mine, theirs, truth)
        assert ours[1].stride() == torch.empty_like(x).stride()
        for mine, truth in zip(statistics_of(x, y).unbind(1), exact_statistics(x, y).unbind(1), strict=True):
            assert relative_error(mine, truth) < 1e-5


def small_deviations(layout: str, device: str, deviation: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Means of 1000."""
    maps = (1000 + deviation * random_map((2, 20, 40, 41), torch.float64, device, seed) for seed in (1, 2))
    x, y = (LAYOUTS[layout](z.float()) for z in maps)
    return x, y


def assert_right_variances(variances: Tensor, x: Tensor, y: Tensor) -> None:  # (N, 3, C)
    assert relative_error(variances, exact_statistics(x, y)[:, 3:]) < 1e-5


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_small_deviations_from_large_means(layout: str, native: str, device: str) -> None:
    x, y = small_deviations(layout, device)
    assert_right_variances(statistics_of(x, y)[:, 3:], x, y)
    value, *gradients = value_and_gradients(x, y, native)
    exact, *exact_gradients = value_and_gradients(x.double(), y.double(), "reference")
    assert relative_error(value, exact) < 1e-5
    # Kept in fp32 for the gradient, the means are off by 3e-5.
    assert all(relative_error(mine, truth) < 3e-3 for mine, truth in zip(gradients, exact_gradients, strict=True))


def test_that_test_fails_for_the_mean_of_squares(device: str) -> None:
    x, y = small_deviations("nchw", device)
    naive = [(z * z).mean((2, 3)) - z.mean((2, 3)) ** 2 for z in (x, y, x - y)]
    with pytest.raises(AssertionError):
        assert_right_variances(torch.stack(naive, 1), x, y)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_means_between_two_numbers(layout: str, library: None) -> None:
    """Deviations of a few last places: squares around a rounded mean alone would be 1e-3 off."""
    x, y = small_deviations(layout, "cpu", 5e-4)
    assert_right_variances(statistics_of(x, y)[:, 3:], x, y)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_one_pixel_far_from_the_others(layout: str, native: str, device: str) -> None:
    """No pixel may stand for the mean: here the first is nowhere near it."""
    x, y = small_deviations(layout, device)
    x[:, :, 0, 0] = -30.0
    y[:, :, 0, 1] = 7.0
    assert relative_error(statistics_of(x, y), exact_statistics(x, y)) < 1e-5


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("step", [1e-3, 1e-5])
def test_small_differences_keep_their_digits(step: float, layout: str, native: str, device: str) -> None:
    x = LAYOUTS[layout](random_map((2, 64, 40, 41), torch.float32, device, 1))
    y = x * (1 + step * random_map(tuple(x.shape), torch.float32, device, 2))
    exact = value_and_gradients(x.double(), y.double(), "reference")
    for mine, truth in zip(value_and_gradients(x, y, native), exact, strict=True):
        assert relative_error(mine, truth) < 1e-5


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channels_without_variance(dtype: torch.dtype, backend: str, device: str) -> None:
    """Zeros, and numbers whose squares are beyond fp16: equal maps have a distance and a gradient of 0."""
    x = torch.zeros((2, 8, 20, 30), dtype=dtype, device=device)
    x[:, ::2] = 60000.0
    with torch.autograd.detect_anomaly(check_nan=True):
        for result in value_and_gradients(x, x, backend):
            assert result.eq(0).all()
        assert all(result.isfinite().all() for result in value_and_gradients(x, x.flip(1), backend))


def test_gradients_by_targets(native: str, device: str) -> None:
    """One target a sample and one for the whole batch; alone, and beside the features'."""
    maps = [random_map((3, channels, 4, 5), torch.float64, device, channels) for channels in (5, 9)]
    targets = [random_map((batch, *x.shape[1:]), x.dtype, device, 7) for batch, x in zip((3, 1), maps, strict=True)]
    alpha, beta = channel_weights(maps, 3), channel_weights(maps, 4)
    for by_features in (False, True):
        leaves = [y.detach().requires_grad_() for y in targets]
        features = [x.detach().requires_grad_(by_features) for x in maps]
        wanted = [*leaves, *(features if by_features else [])]
        ours, exact = (
            torch.autograd.grad(
                po.dists_distance(features, leaves, alpha, beta, backend=backend).square().sum(), wanted
            )
            for backend in (native, "reference")
        )
        torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bad_features_stay_in_their_channel(layout: str, bad: float, native: str, device: str) -> None:
    x, y = (LAYOUTS[layout](random_map((2, 9, 6, 7), torch.float32, device, seed)) for seed in (1, 2))
    x[1, 2, 3, 4] = bad
    value, *gradients = value_and_gradients(x, y, native)
    assert value.isfinite().tolist() == [True, False]
    hit = torch.zeros_like(x, dtype=torch.bool)
    hit[1, 2] = True
    for gradient in gradients:
        assert torch.equal(~gradient.isfinite(), hit)


def test_statistics_do_not_depend_on_threads(library: None) -> None:
    threads = torch.get_num_threads()
    maps = {layout: small_deviations(layout, "cpu") for layout in ("nchw", "nhwc")}
    many = {layout: statistics_of(x, y) for layout, (x, y) in maps.items()}
    try:
        torch.set_num_threads(1)
        for layout, (x, y) in maps.items():
            assert torch.equal(statistics_of(x, y), many[layout])
    finally:
        torch.set_num_threads(threads)


def test_empty_batch(native: str, device: str) -> None:
    x, y = torch.ones((0, 9, 4, 5), device=device), torch.ones((1, 9, 4, 5), device=device)
    alpha, beta = weights_of(x)
    loss, per_layer, statistics = torch.ops.perceptual_ops.dists_distance([x], [y], alpha, beta)
    assert (loss.shape, per_layer.shape, statistics[0].shape) == ((0,), (1, 0), (0, 6, 9))
    (dx,), (dy,) = torch.ops.perceptual_ops.dists_distance_backward(loss, [x], [y], alpha, beta, statistics, True, True)
    assert dx.shape == dy.shape == x.shape


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reduction(reduction: str, backend: str, device: str) -> None:
    x, y = random_map((4, 3, 5, 5), torch.float32, device, 1), random_map((4, 3, 5, 5), torch.float32, device, 2)
    alpha, beta = ([one[0].view(1, -1, 1, 1)] for one in weights_of(x))
    each = naive_dists(x, y, alpha[0].flatten(), beta[0].flatten())
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    torch.testing.assert_close(po.dists_distance([x], [y], alpha, beta, reduction, backend=backend), expected)
    empty = po.dists_distance([x[:0]], [y[:0]], alpha, beta, reduction, backend=backend)
    assert torch.equal(empty, torch.zeros(expected.shape if reduction != "none" else (0,), device=device))
