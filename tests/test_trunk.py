"""The parts of the lean engine's trunk: prepared convolutions, stages, the scale of fp16 gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from maps import random_map
from torch import Tensor, nn

from perceptual_ops.networks import Conv, Pool, Relu
from perceptual_ops.networks.convolution import Convolution, FrozenConv
from perceptual_ops.networks.gradient_scale import GradientScale
from perceptual_ops.networks.stages import Stage, stages_of

pytestmark = pytest.mark.usefixtures("library")

# kernel, stride, padding
GEOMETRIES = [(3, 1, 1), (1, 1, 0), (5, 1, 2), (3, 1, 0), (3, 1, 2), (11, 4, 2), (3, 2, 1), (2, 1, 3)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def drawn(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
    return random_map(shape, dtype, device, seed).contiguous(memory_format=torch.channels_last)


def tolerance(dtype: torch.dtype) -> float:
    return {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 2e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_frozen_convolution(geometry: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
    """Forward with and without bias, and the input gradient, at sizes that change from call to call."""
    kernel, stride, padding = geometry
    module = nn.Conv2d(6, 10, kernel, stride, padding, dtype=torch.float64)
    module.weight.data.normal_(generator=torch.Generator().manual_seed(1)).div_(kernel * 6**0.5)
    module.bias.data.normal_(generator=torch.Generator().manual_seed(2))
    module.to(device).to(dtype)
    frozen = FrozenConv(module, Conv("conv", 6, 10, kernel, stride, padding), dtype)
    exact = nn.Conv2d(6, 10, kernel, stride, padding, dtype=torch.float64, device=device)
    exact.load_state_dict({name: value.double() for name, value in module.state_dict().items()})
    for batch, height, width in ((2, 17, 19), (1, 23, 12), (2, 17, 19), (0, 17, 19)):
        x = drawn((batch, 6, height, width), dtype, device)
        wide = x.double().requires_grad_()
        expected = exact(wide)
        y = frozen.forward(x)
        assert y.is_contiguous(memory_format=torch.channels_last) and y.dtype == dtype
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=4 * tolerance(dtype))
        unbiased = frozen.forward(x, biased=False)
        shift = exact.bias.view(-1, 1, 1)
        torch.testing.assert_close(unbiased.double() + shift, expected, rtol=0, atol=4 * tolerance(dtype))
        upstream = drawn(tuple(y.shape), dtype, device, seed=3)
        (by_input,) = torch.autograd.grad(expected, wide, upstream.double())
        found = frozen.input_gradient(upstream, (height, width))
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.double(), by_input, rtol=0, atol=4 * tolerance(dtype))


def test_a_number_that_is_none_passes_a_convolution() -> None:
    x = drawn((1, 4, 9, 9), torch.float32, "cpu")
    x[0, 0, 4, 4] = float("nan")
    weight = drawn((4, 4, 3, 3), torch.float32, "cpu", seed=1)
    assert torch.equal(Convolution(weight, None, 1, 1)(x).isnan(), F.conv2d(x, weight, None, 1, 1).isnan())


def test_growth_bounds_the_input_gradient() -> None:
    module = nn.Conv2d(5, 7, 3, padding=1)
    frozen = FrozenConv(module, Conv("conv", 5, 7), torch.float16)
    signs = torch.where(module.weight.detach() > 0, 1.0, -1.0)
    most = max(
        frozen.input_gradient(signs[:, channel].flip(1, 2).unsqueeze(0).half(), (3, 3)).abs().max().item()
        for channel in range(5)
    )
    assert 0.5 * frozen.growth < most <= frozen.growth * 1.001


def test_stages() -> None:
    conv, other, relu, pool = Conv("conv", 3, 4), Conv("other", 4, 4), Relu("relu"), Pool("pool", 4)
    assert stages_of([conv, relu, pool, other]) == (Stage(conv, relu, pool), Stage(other))
    assert stages_of([relu, pool, pool, relu, relu]) == (
        Stage(None, relu, pool), Stage(None, None, pool), Stage(None, relu), Stage(None, relu),
    )  # fmt: skip
    assert stages_of([conv, pool, relu, pool]) == (Stage(conv, None, pool), Stage(None, relu, pool))


def test_scales_are_powers_of_two_that_nothing_overflows() -> None:
    scale = GradientScale(torch.ones(5))
    bounds = torch.tensor([1e-9, 3.0, 7e4, 0.0, float("inf")])
    assert scale.choose([bounds / 2, bounds / 2], 1.0, 20.0, first=True) is None
    mantissas, _ = torch.frexp(scale.current)
    assert (mantissas == 0.5).all()
    assert (scale.current[3:] == 1).all()  # no gradient, or one beyond help
    scaled = (scale.current * bounds * 20)[:3]
    assert (scaled <= 2.0**15).all() and (scaled > 2.0**14).all()
    before = scale.current
    scale.measured(torch.tensor([100.0, 100.0, 100.0, 0.0, float("nan")]), 20.0)
    factor = scale.choose([], 4.0, 3.0, first=False)
    assert factor is not None
    assert torch.equal(before * factor, scale.current)
    assert (100.0 * 20 * 4 * factor[:3] * 3 <= 2.0**15).all()
