"""LPIPS and DISTS as modules: what they keep, refuse, return and leave alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from metrics import METRICS, SMALL, make, pictures
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import perceptual_ops as po
from perceptual_ops.engine import batching
from perceptual_ops.engine.metric_op import MetricSettings

pytestmark = pytest.mark.usefixtures("on_device")

metrics = pytest.mark.parametrize("name", METRICS)


@metrics
def test_nothing_of_it_shows(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    metric = make(name)
    x, y = pictures(2), pictures(2, seed=1)
    kept = x.clone(), y.clone()
    before = metric(x, y)
    assert not list(metric.parameters()) and not list(metric.buffers()) and not metric.state_dict()
    assert torch.equal(metric.train()(x, y), before)  # peers' dropout comes back here
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])
    assert capsys.readouterr() == ("", "")


@metrics
def test_copies_and_pickles(name: str) -> None:
    metric = make(name)
    x, y = pictures(1), pictures(1, seed=1)
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(other(x, y), metric(x, y))


@metrics
def test_follows_its_module(name: str) -> None:
    x, y = pictures(1, *SMALL[name]), pictures(1, *SMALL[name], 1)
    metric = make(name)
    exact = copy.deepcopy(metric).double()(x.double(), y.double())
    assert exact.dtype == torch.float64 and metric(x, y).dtype == torch.float32
    back = copy.deepcopy(metric).bfloat16()
    assert all(number.dtype == torch.float32 for number in back._kept["learned_weights"])
    torch.testing.assert_close(back(x, y), exact.float(), rtol=0.05, atol=1e-3)
    torch.testing.assert_close(metric(x, y).double(), exact, rtol=1e-5, atol=1e-7)
    with torch.autocast(x.device.type, torch.bfloat16):
        autocast = metric(x, y)
    assert torch.equal(autocast, make(name, compute_dtype=torch.bfloat16)(x, y))
    assert torch.equal(metric(x, y), metric(x, y))


@metrics
def test_input_ranges(name: str) -> None:
    x, y = pictures(2, *SMALL[name]).double(), pictures(2, *SMALL[name], 1).double()
    expected = make(name).double()(x, y)
    for low, high in ((-1.0, 1.0), (0.0, 255.0)):
        scaled = (low + (high - low) * images for images in (x, y))
        torch.testing.assert_close(make(name, input_range=(low, high)).double()(*scaled), expected)
    gradients = []
    for scale in (1.0, 255.0):
        leaf = (scale * x).requires_grad_()
        make(name, input_range=(0.0, scale)).double()(leaf, scale * y).sum().backward()
        gradients.append(scale * leaf.grad)
    torch.testing.assert_close(*gradients)


def test_default_ranges_are_the_peers() -> None:
    assert po.LPIPS("vgg16", weights="random").input_range == (-1.0, 1.0)
    assert po.DISTS(weights="random").input_range == (0.0, 1.0)


@metrics
def test_grey_and_reductions_and_empty_batches(name: str) -> None:
    x, y = (pictures(3, *SMALL[name], seed)[:, :1] for seed in (0, 1))
    each = make(name)(x, y)
    torch.testing.assert_close(each, make(name)(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(make(name, reduction="sum")(x, y), each.sum())
    torch.testing.assert_close(make(name, reduction="mean")(x, y), each.mean())
    for reduction, shape in (("none", (0,)), ("mean", ()), ("sum", ())):
        empty = x[:0].requires_grad_()
        distance = make(name, reduction=reduction)(empty, y[:0])
        assert distance.shape == shape and not distance.sum()
        assert torch.autograd.grad(distance.sum(), empty)[0].shape == empty.shape


def test_versions_and_linear_weights() -> None:
    x, y = pictures(1), pictures(1, seed=1)
    settings = {"weights": "random"}
    official = po.LPIPS("vgg16", **settings)
    doubled = {
        f"lin{i}.model.1.weight": 2 * n.view(1, -1, 1, 1) for i, n in enumerate(official._kept["learned_weights"])
    }
    torch.testing.assert_close(po.LPIPS("vgg16", linear=doubled, **settings)(x, y), 2 * official(x, y))
    plain = po.LPIPS("vgg16", linear=False, **settings)
    assert all(bool((number == 1).all()) for number in plain._kept["learned_weights"])
    old = po.LPIPS("vgg16", version="0.0", **settings)
    scale, shift = old._kept["input"]
    assert torch.equal(scale, torch.ones_like(scale)) and torch.equal(shift, torch.zeros_like(shift))
    assert not torch.equal(old._kept["learned_weights"][0], official._kept["learned_weights"][0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"network": "resnet"}, "network: expected one of 'alexnet', 'vgg16', 'squeezenet1_1', or 'vgg' for vgg16"),
        ({"version": "v0.1"}, "version: expected one of '0.1', '0.0'; got 'v0.1'"),
        ({"spatial": True, "reduction": "mean"}, 'reduction: expected "none" with spatial=True'),
        ({"spatial": 1}, "spatial: expected True or False, got 1"),
        ({"reduction": "max"}, "reduction: expected one of"),
        ({"eps": 0.0}, "eps: expected a number above 0"),
        ({"input_range": (1, 0)}, "input_range: expected low < high"),
        ({"engine": "fast"}, "engine: expected one of 'lean', 'autograd'"),
        ({"mean": 0.5}, "mean: expected finite numbers, one per channel or one for all, got 0.5"),
        ({"mean": (0.5, 0.5)}, "mean: expected 3 numbers, one per channel, or one for all; got"),
        ({"std": (torch.nan, 1, 1)}, "std: expected finite numbers"),
        ({"weights": "stlpips", "version": "0.0"}, 'version: expected "0.1" with weights="stlpips"'),
        ({"chunk_size": 0}, "chunk_size: expected None or a whole number above 0"),
    ],
)
def test_settings_that_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        po.LPIPS(**({"weights": "random"} | arguments))
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"weights": "stlpips"}, "weights: expected those of a VGG16 without blur"),
        ({"alpha_beta": {"alpha": torch.zeros(1475), "beta": torch.zeros(1475)}}, "alpha_beta: expected numbers whose"),
        (
            {"alpha_beta": {"alpha": torch.full((1475,), torch.nan), "beta": torch.zeros(1475)}},
            ": expected finite numbers",
        ),
    ],
    ids=["blurred", "zeros", "nan"],
)
def test_numbers_of_dists_that_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        make("dists", **arguments)
    assert sentence in str(raised.value)


@metrics
def test_images_that_are_refused(name: str) -> None:
    metric, good = make(name), pictures(2)
    for x, y, sentence in (
        (good, good[:, :, :-1], "target: expected the batch and size of output"),
        (good, pictures(3), "target: expected the batch and size of output"),
        (good, (255 * good).byte(), "target: expected a floating-point tensor"),
        (good[0], good, "output: expected shape (N, 3, H, W)"),
        ("x.png", good, "output: expected a tensor of images"),
        (good[:, :2], good, "output: expected shape (N, 3, H, W)"),
    ):
        with pytest.raises((TypeError, ValueError)) as raised:
            metric(x, y)
        assert sentence in str(raised.value)


@pytest.mark.parametrize(("name", "smallest"), [("alex", 31), ("vgg16", 16), ("squeeze", 17), ("dists", 1)])
def test_the_smallest_image(name: str, smallest: int) -> None:
    metric = make(name)
    x = pictures(1, smallest, smallest)
    assert metric(x, x.flip(3)).isfinite()
    if smallest > 1:
        with pytest.raises(ValueError, match=f"output: expected at least {smallest} x {smallest} pixels for"):
            metric(x[:, :, 1:], x[:, :, 1:])


@metrics
def test_second_derivatives(name: str, library: None) -> None:
    x, y = pictures(1, *SMALL[name]).double().requires_grad_(), pictures(1, *SMALL[name], 1).double()
    with pytest.raises(RuntimeError, match='engine="autograd"'):
        torch.autograd.grad(make(name).double()(x, y), x, create_graph=True)
    results = []
    for backend in ("auto", "reference"):
        metric = make(name, engine="autograd", backend=backend).double()
        (first,) = torch.autograd.grad(metric(x, y), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(*results)
    assert results[0].any()


@metrics
def test_nothing_but_the_image_gradients_is_kept(name: str, library: None) -> None:
    sizes: list[int] = []

    def pack(saved: Tensor) -> Tensor:
        sizes.append(saved.untyped_storage().nbytes())
        return saved

    x, y = pictures(2).requires_grad_(), pictures(2, seed=1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        distance = make(name)(x, y)
    assert sum(sizes) == x.numel() * 4
    (first,) = torch.autograd.grad(distance.sum(), x, retain_graph=True)
    (again,) = torch.autograd.grad(distance.sum(), x)
    assert torch.equal(first, again)


# An AlexNet is not run in tiles, and tiles lie within the operator, which is opaque to the compiler.
@pytest.mark.parametrize(("name", "tiled"), [*((name, False) for name in METRICS), ("vgg16", True)])
def test_compiles_whole(name: str, tiled: bool, library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if tiled:
        for device in ("CPU", "GPU"):
            monkeypatch.setattr(batching, f"{device}_PIXELS", 22 * 22)
    metric = make(name)
    body = torch.nn.Conv2d(3, 3, 3, padding=1).to(pictures(1).device)
    counter = CompileCounterWithBackend("aot_eager")

    def step(x: Tensor) -> Tensor:
        return metric(body(x), x).mean()

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for batch, size in ((2, 32), (3, 37), (4, 32)):
        x = pictures(batch, size, size + 3)
        results = [(loss, *torch.autograd.grad(loss, list(body.parameters()))) for loss in (step(x), compiled(x))]
        torch.testing.assert_close(results[1], results[0])
    assert counter.frame_count <= 2


@metrics
def test_the_operator_keeps_its_contract(name: str, library: None) -> None:
    metric = make(name)
    x, y = pictures(2).requires_grad_(), pictures(1, seed=1)
    settings = MetricSettings(metric.layers, metric.metric, *metric._eps_settings()).encoded()
    for mask in (None, *([] if name == "dists" else [torch.rand(1, 1, *x.shape[2:]).to(x)])):
        learned, trunk_input = metric._kept["learned_weights"], metric.trunk_input(x).encoded()
        arguments = x, y, learned, mask, *trunk_input, *settings, True, False
        torch.library.opcheck(torch.ops.perceptual_ops.metric_loss, arguments)


def test_parts_of_a_model() -> None:
    """In a model under training: nothing reaches its optimizer or checkpoint, and the gradient reaches the model."""
    model = torch.nn.Module()
    model.body, model.criterion = torch.nn.Conv2d(3, 3, 1).to(pictures(1).device), make("alex", reduction="mean")
    assert [name for name, _ in model.named_parameters()] == ["body.weight", "body.bias"]
    x, y = pictures(2), pictures(2, seed=1)
    model.criterion(model.body(x), y).backward()
    assert model.body.weight.grad is not None and model.body.weight.grad.any()
