"""What is special about channel statistics: large means, constant channels, gradients of parts of maps."""

from __future__ import annotations

import pytest
import torch
from maps import DTYPES, LAYOUTS, assert_accurate, random_map, relative_error
from operators import naive_statistics
from torch import Tensor

import perceptual_ops as po

# Several blocks and parts of blocks in either layout, few channels, many, one pixel.
SHAPES = [(2, 64, 50, 43), (1, 512, 17, 16), (2, 7, 33, 40), (3, 3, 9, 130), (1, 2100, 2, 9), (3, 8, 1, 1)]

library_ = torch.ops.perceptual_ops


def value_and_gradient(x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """The statistics, and their gradient for upstream numbers that are not 1."""
    leaf = x.detach().requires_grad_()
    value = naive_statistics(leaf) if backend == "naive" else po.channel_statistics(leaf, backend=backend)
    upstream = random_map(tuple(value.shape), torch.float64, str(x.device), 3).to(value.dtype)
    return value.detach(), torch.autograd.grad(value, leaf, upstream)[0]


@pytest.mark.parametrize("layout", ["nhwc", "nchw", "sliced nhwc", "cropped"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(dtype: torch.dtype, layout: str, native: str, device: str) -> None:
    for shape in SHAPES:
        x = LAYOUTS[layout](random_map(shape, dtype, device, 1))
        ours, naive = value_and_gradient(x, native), value_and_gradient(x, "naive")
        exact = value_and_gradient(x.double(), "naive")
        for mine, theirs, truth in zip(ours, naive, exact, strict=True):
            assert_accurate(mine, theirs, truth)
        assert ours[1].stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_several_layers_at_once(batch: int, native: str, device: str) -> None:
    maps = [
        LAYOUTS[layout](random_map((batch, channels, 5, 7 + channels), torch.float64, device, channels))
        for layout, channels in (("nhwc", 16), ("nchw", 3), ("nhwc", 1), ("cropped", 5))
    ]
    for x, statistics in zip(maps, library_.channel_statistics(maps), strict=True):
        assert statistics.shape == (batch, 2, x.shape[1])
        torch.testing.assert_close(statistics, naive_statistics(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("deviation", [1.0, 1e-2])
def test_deviations_from_large_means(deviation: float, layout: str, native: str, device: str) -> None:
    x = LAYOUTS[layout]((1000 + deviation * random_map((2, 20, 40, 41), torch.float64, device, 1)).float())
    value, gradient = value_and_gradient(x, native)
    exact, exact_gradient = value_and_gradient(x.double(), "naive")
    assert relative_error(value[:, 1], exact[:, 1]) < 1e-5
    assert relative_error(value[:, 0], exact[:, 0]) < 1e-7
    # Kept in fp32 for the gradient, the means are off by 3e-5.
    assert relative_error(gradient, exact_gradient) < 1e-4 / deviation
    naive = ((x * x).mean((2, 3)) - x.mean((2, 3)) ** 2).relu().add(1e-5).sqrt()
    assert relative_error(naive, exact[:, 1]) > 1e-3, "of squares"


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_constant_channels(layout: str, dtype: torch.dtype, backend: str, device: str) -> None:
    """Zeros, and numbers whose squares are beyond fp16: a gradient by the deviation of 0, not NaN."""
    x = torch.zeros((2, 8, 20, 30), dtype=dtype, device=device)
    x[:, ::2] = 60000.0
    leaf = LAYOUTS[layout](x).detach().requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        mean, deviation = po.channel_statistics(leaf, backend=backend).unbind(1)
        (gradient,) = torch.autograd.grad(deviation.sum(), leaf)
    assert gradient.eq(0).all()
    assert torch.equal(mean, x[:, :, 0, 0].to(mean.dtype))
    torch.testing.assert_close(deviation, torch.full_like(deviation, 1e-5**0.5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bad_features_stay_in_their_channel(layout: str, bad: float, native: str, device: str) -> None:
    x = LAYOUTS[layout](random_map((2, 9, 6, 7), torch.float32, device, 1))
    x[1, 2, 3, 4] = bad
    value, gradient = value_and_gradient(x, native)
    hit = torch.zeros_like(x, dtype=torch.bool)
    hit[1, 2] = True
    assert torch.equal(~gradient.isfinite(), hit)
    assert torch.equal(~value[:, 1].isfinite(), hit[:, :, 0, 0])
    assert torch.equal(~value[:, 0].isfinite(), hit[:, :, 0, 0])


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "sliced nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_of_parts_of_maps(dtype: torch.dtype, layout: str, native: str, device: str) -> None:
    """A part has its share of the gradient of the whole; what there is already is added, with one rounding."""
    x = LAYOUTS[layout](random_map((2, 6, 10, 9), dtype, device, 1))
    upstream = random_map((2,), torch.float64, device, 2)
    slopes = random_map((2, 2, 6), torch.float64, device, 3)
    leaf = x.double().requires_grad_()
    statistics = naive_statistics(leaf)
    (whole,) = torch.autograd.grad(statistics, leaf, slopes * upstream.view(-1, 1, 1))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    grad, numbers, by_numbers = (z.detach().to(wide) for z in (upstream, statistics, slopes))
    part = x[:, :, 2:9, 1:7]
    other = random_map(tuple(part.shape), dtype, device, 4)
    for added in (None, other):
        (ours,) = library_.channel_statistics_backward(grad, [part], [numbers], [by_numbers], [90], [added])
        exact = whole[:, :, 2:9, 1:7] + (0 if added is None else added.double())
        assert_accurate(ours, exact.to(dtype), exact)


def test_gradcheck(native: str, device: str) -> None:
    x = random_map((2, 3, 4, 5), torch.float64, device, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: po.channel_statistics(x, backend=native), x)
    assert torch.autograd.gradgradcheck(lambda x: po.channel_statistics(x, backend=native), x)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bits_do_not_depend_on_threads(layout: str, library: None) -> None:
    threads = torch.get_num_threads()
    x = LAYOUTS[layout](random_map((2, 20, 40, 41), torch.float32, "cpu", 1))
    many = value_and_gradient(x, "native")
    try:
        torch.set_num_threads(1)
        assert all(map(torch.equal, value_and_gradient(x, "native"), many))
    finally:
        torch.set_num_threads(threads)
