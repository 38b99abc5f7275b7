"""The lean engine against ordinary autograd over the same network, and what it keeps."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import pytest
import torch
from perceptual import images, make
from torch import Tensor

import perceptual_ops as po
from perceptual_ops.networks import Conv, FeatureNetwork, Layer, Pool, Relu, load_network
from perceptual_ops.networks.weights import random_weights

pytestmark = pytest.mark.usefixtures("library")

UPSTREAM = torch.tensor([1.0, -2.5, 0.75, 3.0])

Result = tuple[Tensor, Tensor, Tensor | None]  # loss, d/d output, d/d target


def photographs(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(seed))


def run(criterion: po.PerceptualLoss, size: tuple[int, int], batch: int = 3, target_gradient: bool = False) -> Result:
    """Loss and gradients with an upstream number of its own for each sample."""
    dtype = torch.float64 if criterion.network_dtype() == torch.float64 else torch.float32
    x, y, style = (
        photographs(n, *size, seed).to(criterion.device, dtype) for n, seed in ((batch, 0), (batch, 1), (1, 2))
    )
    x.requires_grad_()
    y.requires_grad_(target_gradient)
    loss = criterion(x, y if criterion.content_layers else None, style if criterion.style_layers else None)
    upstream = UPSTREAM[:batch].to(loss) if loss.dim() else UPSTREAM[1].to(loss)
    found = torch.autograd.grad(loss, [x, y] if target_gradient else [x], upstream)
    return loss.detach(), found[0], found[1] if target_gradient else None


def error(x: Tensor, exact: Tensor) -> float:
    """The distance over the exact length."""
    x, exact = x.double().cpu(), exact.double().cpu()
    return ((x - exact).norm() / exact.norm()).item()


def close(ours: Result, expected: Result, tolerance: float) -> None:
    for got, wanted in zip(ours, expected, strict=True):
        assert (got is None) == (wanted is None)
        if got is not None and wanted is not None:
            assert error(got, wanted) <= tolerance


TAPS: dict[str, dict[str, object]] = {
    "content alone": {"content_layers": ["relu2_2"], "style_layers": None},
    "style alone": {"content_layers": None, "style_layers": ["relu1_2", "relu2_1"]},
    "a layer in both": {"content_layers": ["relu2_2"], "style_layers": ["relu1_2", "relu2_2", "relu3_1"]},
    "before the ReLU": {"content_layers": ["conv1_2", "conv3_1"], "style_layers": ["conv2_1"]},
    "both sides of a ReLU": {"content_layers": ["conv1_1", "relu1_1", "conv2_2"], "style_layers": ["relu2_2"]},
    "poolings": {"content_layers": ["pool1", "conv2_1"], "style_layers": ["pool1", "pool2"]},
    "all of a block": {"content_layers": ["conv1_2", "relu1_2", "pool1"], "style_layers": ["conv1_1", "relu1_1"]},
}


def losses(network: str, pooling: str, **settings: object) -> Sequence[po.PerceptualLoss]:
    """The lean engine, ordinary autograd over the operators, and ordinary autograd over the reference."""
    layers = [*(settings["content_layers"] or []), *(settings["style_layers"] or [])]
    trunk = load_network(network, "random", layers=layers, pooling=pooling)
    for parameter in trunk.parameters():  # biases too
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
    engines = ({"engine": "lean"}, {"engine": "autograd"}, {"engine": "autograd", "backend": "reference"})
    return [po.PerceptualLoss(trunk, **(settings | engine)) for engine in engines]


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("pooling", ["max", "average", "blur"])
def test_equal_to_autograd_in_fp64(taps: str, pooling: str, device: str) -> None:
    lean, autograd, reference = (
        loss.double().to(device)
        for loss in losses("vgg13", pooling, reduction="none", tv_weight=0.1, chunk_size=2, **TAPS[taps])
    )
    target_gradient = bool(lean.content_layers)
    for size in ((17, 19), (24, 26)):
        ours = run(lean, size, target_gradient=target_gradient)
        close(ours, run(autograd, size, target_gradient=target_gradient), 1e-10)
        close(ours, run(reference, size, target_gradient=target_gradient), 1e-10)


@pytest.mark.parametrize("network", ["vgg11", "vgg13", "vgg16", "vgg19"])
def test_every_network_to_its_end(network: str) -> None:
    deepest = list(load_network(network, "random")._depths)[-1]
    layers = {"content_layers": [deepest, "relu4_2"], "style_layers": ["relu1_1", "relu3_1", "relu5_1"]}
    if network == "vgg11":
        layers["content_layers"] = [deepest, "relu4_2", "conv5_2"]
    lean, autograd, _ = (loss.double() for loss in losses(network, "max", **layers))
    close(run(lean, (37, 33), 1), run(autograd, (37, 33), 1), 1e-10)


@pytest.mark.parametrize("distance", ["mse", "sse", "l1", "charbonnier", "huber"])
@pytest.mark.parametrize("normalize", ["none", "hw", "chw"])
def test_distances_and_normalisations(distance: str, normalize: str) -> None:
    settings = {"content_distance": distance, "style_distance": distance, "gram_normalize": normalize}
    lean, autograd = (make(engine=engine, **settings).double() for engine in ("lean", "autograd"))
    close(run(lean, (18, 21)), run(autograd, (18, 21)), 1e-10)


# A chain no published network has: strides, windows and paddings of all kinds, two poolings in a row, a pooling before
# the ReLU, 12 channels.
CHAIN: tuple[Layer, ...] = (
    Conv("conv1", 3, 12, kernel=5, stride=2, padding=1), Pool("blur1", 12, 2, 2, "blur"), Relu("relu1"),
    Pool("pool1", 12, 3, 2), Pool("again1", 12, 2, 1), Conv("conv2", 12, 16, kernel=1, padding=0), Relu("relu2"),
    Conv("conv3", 16, 8, kernel=3, padding=3), Conv("conv4", 8, 8, kernel=3, padding=0), Relu("relu4"),
    Pool("pool4", 8, 4, 3), Relu("relu5"),
)  # fmt: skip


@pytest.mark.parametrize("pooling", ["max", "average", "blur"])
@pytest.mark.parametrize("wanted", [["relu5"], ["conv1", "blur1", "pool1"], ["relu1", "again1", "conv3", "pool4"]])
def test_any_chain(pooling: str, wanted: list[str], device: str) -> None:
    network = FeatureNetwork("chain", CHAIN, wanted, pooling)
    state = random_weights([layer for layer in network.layers if isinstance(layer, Conv)], seed=3)
    network.load_state_dict(state)
    lean, autograd = (
        po.PerceptualLoss(network, content_layers=wanted, style_layers=wanted[-1:], engine=engine).double().to(device)
        for engine in ("lean", "autograd")
    )
    close(run(lean, (61, 66)), run(autograd, (61, 66)), 1e-10)


@pytest.mark.parametrize("pooling", ["max", "average", "blur"])
def test_bias_beside_the_relu(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where torch adds the bias in a pass of its own."""
    monkeypatch.setattr("perceptual_ops.engine.stages.bias_is_a_pass", lambda device: True)
    for taps in ("a layer in both", "before the ReLU", "poolings"):
        lean, autograd, _ = (loss.double() for loss in losses("vgg13", pooling, **TAPS[taps]))
        close(run(lean, (21, 18)), run(autograd, (21, 18)), 1e-10)
        with torch.no_grad():
            x, style = photographs(2, 21, 18).double(), photographs(1, 21, 18, 2).double()
            torch.testing.assert_close(lean(x, 1 - x, style), autograd(x, 1 - x, style))


def test_fp16_does_not_overflow_without_relus() -> None:
    """Convolutions that follow each other, with weights of one sign: the gradient grows by all that it can."""
    layers = [Conv(f"conv{i}", 3 if i == 0 else 8, 8) for i in range(6)]
    network = FeatureNetwork("convolutions", layers, ["conv5"])
    for i in range(6):
        weight = getattr(network, f"conv{i}").weight
        weight.data = torch.rand(weight.shape, generator=torch.Generator().manual_seed(i)) * (6 / weight[0].numel())
    for taps in (["conv5"], ["conv2", "conv5"]):
        lean, autograd = (
            po.PerceptualLoss(network, content_layers=taps, content_distance="sse", mean=[0] * 3, std=[1] * 3, **kw)
            for kw in ({"compute_dtype": torch.float16}, {"engine": "autograd"})
        )
        close(run(lean, (20, 23)), run(autograd.double(), (20, 23)), 1e-2)


def naive_gradients(criterion: po.PerceptualLoss, size: tuple[int, int], batch: int) -> list[Tensor]:
    """Single fp32 runs that differ only in memory format and number of threads: ReLU and pooling flip at near ties."""
    found = []
    threads = torch.get_num_threads()
    try:
        for memory_format, count in itertools.product((torch.contiguous_format, torch.channels_last), (1, threads)):
            torch.set_num_threads(count)
            variant = copy.deepcopy(criterion)
            variant._network.to(memory_format=memory_format)
            found.append(run(variant, size, batch)[1])
    finally:
        torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize(
    ("weights", "size"),
    [("random", (65, 99)), ("random", (19, 17)), ("stlpips", (64, 64)), ("stlpips", (33, 41))],
)
def test_fp32_is_as_near_as_naive_runs(weights: str, size: tuple[int, int], device: str) -> None:
    if weights == "stlpips":
        pytest.importorskip("stlpips_pytorch", exc_type=ImportError)
    settings = {"weights": weights, "reduction": "none", "chunk_size": 2}
    if size[0] < 32:  # too small for relu4_3
        settings |= {"style_layers": {"relu1_2": 1.0, "relu2_2": 1.0}}
    lean, autograd = (
        po.PerceptualLoss.preset("johnson-style", engine=engine, **settings).to(device)
        for engine in ("lean", "autograd")
    )
    batch = 1 if size[0] >= 64 else 3
    exact = run(copy.deepcopy(autograd).double(), size, batch)
    ours = run(lean, size, batch)
    worst = max(error(gradient, exact[1]) for gradient in naive_gradients(autograd, size, batch))
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-5, atol=0)
    assert error(ours[1], exact[1]) <= 2 * worst


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_half_precision_is_as_near_as_autograd(dtype: torch.dtype, scale: float, device: str) -> None:
    """However small the loss: autograd gets the scale that a GradScaler would find, the lean engine none."""
    layers = {"content_layers": ["relu2_1", "conv3_2"], "style_layers": ["relu1_1", "conv2_1", "relu3_2"]}
    settings = layers | {"content_weight": scale, "style_weight": 20 * scale}
    exact = run(make(device=device, engine="autograd", **settings).double(), (24, 28))
    ours = run(make(device=device, compute_dtype=dtype, **settings), (24, 28))
    naive = []
    for exponent in (12, 16, 20):
        scaled = layers | {"content_weight": 2.0**exponent, "style_weight": 20 * 2.0**exponent}
        loss, gradient, _ = run(make(device=device, compute_dtype=dtype, engine="autograd", **scaled), (24, 28))
        naive.append((loss / 2.0**exponent * scale, gradient / 2.0**exponent * scale))
    assert error(ours[0], exact[0]) <= 2 * max(error(loss, exact[0]) for loss, _ in naive)
    assert error(ours[1], exact[1]) <= 2 * min(error(gradient, exact[1]) for _, gradient in naive)


@pytest.mark.parametrize("parts", [{}, {"content_layers": None}, {"style_layers": None}], ids=str)
def test_grad_scaler_steps_as_in_fp32(parts: dict[str, None]) -> None:
    """A scaled backward of a tiny loss arrives whole at the parameters."""
    steps = []
    for dtype in (torch.float32, torch.float16):
        criterion = make(compute_dtype=dtype, content_weight=1e-6, style_weight=1e-6, **parts)
        x = torch.nn.Parameter(images(2))
        scaler = torch.amp.GradScaler("cpu")
        optimizer = torch.optim.SGD([x], lr=1.0)
        target, style = (None if name in parts else images(1, seed=2) for name in ("content_layers", "style_layers"))
        scaler.scale(criterion(x, target, style)).backward()
        scaler.unscale_(optimizer)
        assert x.grad is not None
        steps.append(x.grad)
    assert error(steps[1], steps[0]) < 0.02


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 4, 7])
def test_chunks_change_rounding_alone(chunk_size: int | None) -> None:
    whole = run(make(reduction="none", chunk_size=4), (26, 31), 4, target_gradient=True)
    lean = make(reduction="none", chunk_size=chunk_size)
    ours, again = (run(lean, (26, 31), 4, target_gradient=True) for _ in range(2))
    close(ours, whole, 1e-5)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("output_gradient", [True, False])
def test_gradient_of_a_target_that_serves_the_batch(batch: int, output_gradient: bool) -> None:
    found = []
    for engine in ("lean", "autograd"):
        criterion = make(engine=engine, style_layers=None, reduction="none", chunk_size=2).double()
        x, y = images(batch).double().requires_grad_(output_gradient), images(1, seed=1).double().requires_grad_()
        criterion(x, y).backward(UPSTREAM[:batch].double())
        assert (x.grad is not None) == output_gradient
        assert y.grad is not None
        found.append(y.grad)
    assert error(*found) < 1e-10


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_image_has_a_broken_loss_of_its_own(value: float) -> None:
    broken = images(3)
    broken[1, 0, 5, 5] = value
    x = broken.requires_grad_()
    loss = make(reduction="none")(x, images(3, seed=1), images(1, seed=2))
    assert loss.isfinite().tolist() == [True, False, True]
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient[::2].isfinite().all() and not gradient[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_like_the_images(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """The network's arithmetic is fp32, whatever the images are held in."""
    x = images(2).to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    gradients = [
        torch.autograd.grad(make(engine=engine)(x, images(2, seed=1), images(1, seed=2)), x)[0]
        for engine in ("lean", "autograd")
    ]
    assert gradients[0].dtype == dtype and gradients[0].is_contiguous(memory_format=memory_format)
    assert error(*gradients) < (1e-5 if dtype == torch.float64 else 1e-2)


def test_grey_cropped_and_permuted_images() -> None:
    grey = images(2)[:, :1]
    larger = images(4, 40)[::2, :, 3:33, 2:37]
    permuted = images(2).permute(0, 1, 3, 2)
    for view in (grey, larger, permuted):
        gradients = []
        for engine in ("lean", "autograd"):
            x = view.detach().requires_grad_()
            y = torch.zeros_like(x)
            gradients.append(torch.autograd.grad(make(engine=engine, tv_weight=0.1)(x, y, images(1)), x)[0])
        assert error(*gradients) < 1e-5
