"""The lean engine's trunk against the network's own features, and its parts."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from maps import assert_accurate, random_map
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

import perceptual_ops as po
from perceptual_ops.engine.convolution import Convolution, FrozenConv
from perceptual_ops.engine.loss_scale import LossScale
from perceptual_ops.engine.stages import Stage, stages_of
from perceptual_ops.engine.trunk import Trunk
from perceptual_ops.networks import Conv, FeatureNetwork, Layer, Pool, Relu, load_network
from perceptual_ops.networks.layers import convolutions_of
from perceptual_ops.networks.weights import random_weights
from perceptual_ops.reference import l2_pool

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


# inputs, outputs, kernel: of VGG's deep layers, and of AlexNet forward and backward
@pytest.mark.parametrize(
    "shape", [(512, 512, 3), (64, 192, 5), (192, 64, 5), (192, 384, 3), (384, 192, 3), (256, 384, 3), (256, 256, 3)]
)
def test_weights_are_in_the_blocks_that_they_are_used_in(
    shape: tuple[int, int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    """oneDNN would reorder others at every call; which it wants depends on the size, of some CPUs also in fp32."""
    inputs, outputs, kernel = shape
    weight = drawn((outputs, inputs, kernel, kernel), torch.float32, "cpu")
    convolution = Convolution(weight, None, 1, kernel // 2)
    for size in (4, 7, 14, 16):
        x = drawn((1, inputs, size, size), torch.float32, "cpu")
        convolution(x)
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            convolution(x)
    said = capfd.readouterr().out
    assert said.count(",convolution,") == 4 * inputs / convolution._group
    assert ",reorder," not in said


def test_blocks_of_small_and_of_large_maps_are_kept(capfd: pytest.CaptureFixture[str]) -> None:
    """Tiles and the last chunk of a batch have sizes of their own."""
    convolution = Convolution(drawn((192, 64, 5, 5), torch.float32, "cpu"), None, 1, 2)
    maps = [drawn(shape, torch.float32, "cpu") for shape in ((3, 64, 7, 7), (1, 64, 4, 32), (2, 64, 16, 12))]
    convolution(maps[0])
    convolution(maps[2])
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        for x in maps:
            convolution(x)
    said = capfd.readouterr().out
    if torch.backends.cpu.get_cpu_capability() == "AVX2":  # blocks depend on every size: those of the last are kept
        assert [*convolution._blocked] == [maps[-1].shape]
    else:
        assert ",reorder," not in said and len(convolution._blocked) == 2


@pytest.mark.parametrize("size", [6, 14])  # torch runs oneDNN for the larger alone
@pytest.mark.parametrize(("kernel", "channels"), [(3, 512), (5, 192), (1, 1500)])
def test_long_sums_of_a_convolution(kernel: int, channels: int, size: int) -> None:
    """As many products as the deepest layers add up, beside torch's in NCHW."""
    for inputs, outputs in ((channels, 16), (16, channels)):
        module = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        module.weight.data = random_map((outputs, inputs, kernel, kernel), torch.float32, "cpu", seed=1)
        module.bias.data = random_map((outputs,), torch.float32, "cpu", seed=2)
        exact = copy.deepcopy(module).double()
        frozen = FrozenConv(module, Conv("conv", inputs, outputs, kernel, 1, kernel // 2), torch.float32)
        x = drawn((1, inputs, size, size), torch.float32, "cpu").relu()
        upstream = drawn((1, outputs, size, size), torch.float32, "cpu", seed=3)
        assert_accurate(frozen.forward(x), module(x.contiguous()), exact(x.double()))
        naive, expected = (
            conv2d_input(x.shape, conv.weight, upstream.contiguous().to(conv.weight.dtype), 1, kernel // 2)
            for conv in (module, exact)
        )
        assert_accurate(frozen.input_gradient(upstream, (size, size)), naive, expected)


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
    assert frozen.growth is not None and 0.5 * frozen.growth < most <= frozen.growth * 1.001


def test_stages() -> None:
    conv, other, relu, pool = Conv("conv", 3, 4), Conv("other", 4, 4), Relu("relu"), Pool("pool", 4)
    assert stages_of([conv, relu, pool, other]) == (Stage(conv, relu, pool), Stage(other))
    assert stages_of([relu, pool, pool, relu, relu]) == (
        Stage(None, relu, pool), Stage(None, None, pool), Stage(None, relu), Stage(None, relu),
    )  # fmt: skip
    assert stages_of([conv, pool, relu, pool]) == (Stage(conv, None, pool), Stage(None, relu, pool))
    l2 = Pool("l2", 4, kind="l2")
    assert stages_of([conv, relu, l2, relu, pool]) == (Stage(conv, relu), Stage(pool=l2), Stage(None, relu, pool))
    assert stages_of([conv, l2, l2]) == (Stage(conv), Stage(pool=l2), Stage(pool=l2))


def test_scales_are_powers_of_two_that_nothing_overflows() -> None:
    scale, growth = LossScale(), torch.tensor(20.0)
    bounds = torch.tensor([1e-9, 3.0, 7e4, 0.0, float("inf")])
    assert scale.choose([bounds / 2, bounds / 2], grows=growth) is None
    mantissas, _ = torch.frexp(scale.current)
    assert (mantissas == 0.5).all()
    assert (scale.current[3:].log2().abs() <= 60).all()  # no gradient, or one beyond help
    scaled = (scale.current * bounds * 20)[:3]
    assert (scaled <= 2.0**15).all() and (scaled > 2.0**14).all()
    before = scale.current
    maxima = torch.tensor([100.0, 1.0, 1e-3, 0.0, float("nan")])
    scale.measured().copy_(maxima)
    scale.grow(growth)
    factor = scale.choose([], 4.0, torch.tensor(3.0))
    assert factor is not None
    assert torch.equal(before * factor, scale.current)
    assert (maxima[:3] * 20 * 4 * factor[:3] * 3 <= 2.0**15).all()
    assert torch.isfinite(factor).all() and (factor > 0).all()
    tap = torch.tensor([1e-3, 1e3, 1.0, 1e-3, 1.0])  # before anything is measured anew
    factor = scale.choose([tap])
    bound = maxima[:3] * 20 * 4 / before[:3] + tap[:3]
    assert (bound * scale.current[:3] <= 2.0**15).all() and (bound * scale.current[:3] > 2.0**14).all()
    assert tap[3] * scale.current[3] <= 2.0**15  # there was none before
    before = scale.current
    for _ in range(2):
        scale.grow(growth)
    scale.choose([], room=2.0**10)
    grown = bound * 20 * 20 * scale.current[:3]
    assert (grown <= 2.0**10).all() and (grown > 2.0**9).all()


# ---- the whole trunk ----


class Given:
    """`TapGradients` that are known beforehand, scaled where the dtype wants it."""

    def __init__(self, gradients: dict[str, Tensor], dtype: torch.dtype) -> None:
        self._gradients, self._dtype = gradients, dtype
        self.scale = LossScale() if dtype == torch.float16 else None

    def gradient(self, layer: str, scale: Tensor | None) -> Tensor:
        gradient = self._gradients[layer]
        scaled = gradient if scale is None else gradient * scale.view(-1, 1, 1, 1)
        return scaled.to(self._dtype, copy=True, memory_format=torch.channels_last)

    def bound(self, layer: str) -> Tensor:
        return self._gradients[layer].abs().amax((1, 2, 3)).float()


def run(trunk: Trunk, x: Tensor, gradients: dict[str, Tensor], hold: bool) -> tuple[dict[str, Tensor], Tensor]:
    """Maps and the image's gradient; unless `hold`, the trunk may write over tapped maps."""
    found: dict[str, Tensor] = {}

    def tap(layer: str, features: Tensor) -> bool:
        found[layer] = features if hold else features.clone()
        return hold

    given = Given(gradients, x.dtype)
    tape = trunk.forward(x.clone(memory_format=torch.channels_last), gradients, tap, keep=True)
    gradient = trunk.backward(tape, given)
    return found, gradient.double() / (1 if given.scale is None else given.scale.current.view(-1, 1, 1, 1))


def assert_runs_as_the_network(network: FeatureNetwork, size: tuple[int, int], device: str) -> None:
    """In fp64, with biases, maps held and not."""
    for parameter in network.double().parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
    trunk = Trunk(network.to(device))
    x = drawn((2, 3, *size), torch.float64, device).requires_grad_()
    expected = network.features(x)
    gradients = {name: drawn(tuple(tap.shape), torch.float64, device, seed=5) for name, tap in expected.items()}
    (by_image,) = torch.autograd.grad(list(expected.values()), x, list(gradients.values()))
    sizes = trunk.sizes(*size)
    for hold in (True, False):
        with torch.no_grad():
            found, gradient = run(trunk, x.detach(), gradients, hold)
        assert list(found) == [layer.name for layer in network.layers if layer.name in expected]
        for name, tap in found.items():
            assert sizes[name] == tuple(tap.shape[1:])
            torch.testing.assert_close(tap, expected[name], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, by_image, rtol=0, atol=1e-12 * by_image.abs().max().item())


@pytest.mark.parametrize("pooling", ["max", "blur", "average", "l2"])
@pytest.mark.parametrize(
    "layers", [["relu1", "relu2", "relu3", "relu4", "relu5"], ["conv1", "pool1", "conv2", "relu2", "pool2"], None]
)
def test_alexnet(layers: list[str] | None, pooling: str, device: str) -> None:
    network = load_network("alexnet", "random", layers=layers, pooling=pooling)  # type: ignore[arg-type]
    assert_runs_as_the_network(network, (39, 46) if pooling == "blur" else (67, 82), device)


@pytest.mark.parametrize("layers", [["relu1_1", "relu2_1", "relu3_2", "relu4_2"], ["pool1", "conv3_1"], ["pool2"]])
def test_vgg_with_l2_pooling(layers: list[str], device: str) -> None:
    assert_runs_as_the_network(load_network("vgg11", "random", layers=layers, pooling="l2"), (21, 30), device)


# An "l2" pooling after a convolution, after a ReLU, before a ReLU that writes over its result, and after its like.
L2_CHAIN: tuple[Layer, ...] = (
    Conv("conv1", 3, 12), Pool("pool1", 12), Relu("relu1"), Conv("conv2", 12, 8), Relu("relu2"), Pool("pool2", 8),
    Pool("again2", 8), Relu("twice2"), Conv("conv3", 8, 8),
)  # fmt: skip


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "layers", [["conv3"], ["conv1", "pool1", "relu2", "again2"], ["relu1", "conv2", "twice2"], ["pool2", "conv3"]]
)
def test_l2_pooling_among_others(layers: list[str], bias: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perceptual_ops.engine.stages.bias_is_a_pass", lambda device: bias)
    network = FeatureNetwork("chain", L2_CHAIN, layers, "l2")
    network.load_state_dict(random_weights(convolutions_of(network.layers), seed=3))
    assert_runs_as_the_network(network, (19, 26), device)


def test_an_l2_pooling_enlarges_no_gradient() -> None:
    """What stages.py makes of its slopes: at most 1, reached where one pixel stands alone under four windows."""
    for single in (False, True):
        x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
        x[..., 3, 5] = 2.0
        x = (x if single else drawn((1, 1, 9, 9), torch.float64, "cpu")).requires_grad_()
        jacobian = torch.autograd.functional.jacobian(l2_pool, x).abs().sum((0, 1, 2, 3))
        assert jacobian.max() <= 1
        assert not single or jacobian.max() > 0.999


def test_fp16_through_l2_poolings(device: str) -> None:
    """Weights of one sign: the gradient grows by all that it can, and its scale follows."""
    layers: list[Layer] = []
    for i in range(4):
        layers += [Conv(f"conv{i}", 3 if i == 0 else 8, 8), Pool(f"pool{i}", 8)]
    for taps in (["conv3"], ["pool3"], ["conv1", "pool1", "pool2", "conv3"]):
        network = FeatureNetwork("chain", layers, taps, "l2").to(device)
        for i, conv in enumerate(convolutions_of(network.layers)):
            weight = getattr(network, conv.name).weight
            positive = torch.rand(weight.shape, generator=torch.Generator().manual_seed(i)) * (6 / weight[0].numel())
            weight.data = positive.half().float().to(device)
        trunk = Trunk(network)
        x = drawn((2, 3, 37, 42), torch.float16, device).abs()
        wide = x.double().requires_grad_()
        expected = network.double().features(wide)
        # One sample's gradient would overflow fp16 on its way, the other's vanish.
        factor = torch.tensor([1e3, 1e-9], dtype=torch.float64, device=device).view(-1, 1, 1, 1)
        gradients = {
            name: drawn(tuple(tap.shape), torch.float64, device, 5).abs() * factor for name, tap in expected.items()
        }
        (by_image,) = torch.autograd.grad(list(expected.values()), wide, list(gradients.values()))
        with torch.no_grad():
            _, gradient = run(trunk, x, gradients, hold=True)
        for ours, exact in zip(gradient, by_image, strict=True):
            torch.testing.assert_close(ours, exact, rtol=0, atol=1e-2 * exact.abs().max().item())


def test_what_is_no_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="network: expected one that is_chain, got squeezenet1_1; run it by autograd"):
        Trunk(load_network("squeezenet1_1", "random"))
    Trunk(load_network("squeezenet1_1", "random", layers=["relu1"]))


def test_a_loss_over_what_is_no_chain_is_made_by_autograd() -> None:
    x, gradients = torch.rand(2, 3, 22, 25, generator=torch.Generator().manual_seed(2)), []
    for engine in ("lean", "autograd"):
        network = load_network("squeezenet1_1", "random", layers=["fire3", "fire5"])
        criterion = po.PerceptualLoss(network, content_layers=["fire3"], style_layers=["fire5"], engine=engine)
        output = x.clone().requires_grad_()
        criterion(output, 1 - x, x.flip(3)).backward()
        gradients.append(output.grad)
    assert gradients[0] is not None and gradients[0].any()
    torch.testing.assert_close(*gradients)
