"""Your own modules on the lean engine as guests: threads, checkpoints, scalers, hooks, empty batches, reused memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_module_trunk import Counted, Held, Residual, close, images, make, value_and_gradients
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import perceptual_ops as po
from perceptual_ops.networks import FeatureNetwork, ModuleFeatures

OUTPUT = {"content_layers": ["output"], "style_layers": None, "tv_weight": 0.0}


def small(batch: int, seed: int = 0) -> Tensor:
    return images(batch, seed, dtype=torch.float32)


MEETING = threading.Barrier(2, timeout=600)


class Met(Residual):
    """Two threads pass it only together, so that their chunks overlap."""

    def forward(self, x: Tensor) -> Tensor:
        MEETING.wait()
        return super().forward(x)


def test_two_threads_may_call_one_loss() -> None:
    network = Met()
    loss, alone = make(network, style_layers=None), make(Residual(), style_layers=None)
    alone.replace_network_weights(loss.frozen_network.state_dict())
    pairs = [(small(2), small(2, 1)), (small(2, 2), small(2, 3))]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda pair: value_and_gradients(loss, *pair), pairs))
    for mine, pair in zip(found, pairs, strict=True):
        for ours, expected in zip(mine, value_and_gradients(alone, *pair), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_runs_the_loss_again_and_no_more(reentrant: bool) -> None:
    Held.alive = Held.most = Held.backwards = 0
    loss, body = make(Counted(), **OUTPUT, chunk_size=2), nn.Conv2d(3, 3, 1)
    x, y = small(6).requires_grad_(), small(6, 1)
    loss(body(x), y).sum().backward()
    expected, x.grad = x.grad, None
    assert Held.backwards == 3
    checkpoint(lambda x: loss(body(x), y).sum(), x, use_reentrant=reentrant).backward()
    assert torch.equal(x.grad, expected)
    # The reentrant one runs without a gradient first.
    assert (Held.backwards, Held.most, Held.alive) == (6 if reentrant else 9, 2, 0)


def test_a_grad_scaler_finds_the_gradient_of_fp32() -> None:
    """One that would vanish in fp16; a step whose gradient is not finite is left out."""
    body = nn.Conv2d(3, 3, 1)
    optimizer = torch.optim.SGD(body.parameters(), lr=1e6)  # the gradient is small
    network = Residual()
    loss, exact = (make(network, **OUTPUT, content_weight=1e-7, compute_dtype=dtype) for dtype in (torch.float16, None))
    x, y = small(2), small(2, 1)
    expected = torch.autograd.grad(exact(body(x), y).sum(), body.weight)[0]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(loss(body(x), y).sum()).backward()
    scaler.unscale_(optimizer)
    close([body.weight.grad], [expected], 0.02)
    before = body.weight.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(body.weight, before) and scaler.get_scale() == 2.0**10

    optimizer.zero_grad()
    before = body.weight.detach().clone()
    scaler.scale(loss(body(x * torch.nan), y).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(body.weight, before) and scaler.get_scale() == 2.0**9


class Narrowing(nn.Module):
    """Of several dtypes: of both parts, and of what goes from one to the other."""

    def __init__(self, first: torch.dtype, between: torch.dtype, second: torch.dtype) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3).to(first), nn.Conv2d(4, 4, 1).to(second)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(self.first(x).to(self.between).to(self.second.weight.dtype)))

    def exact(self) -> Narrowing:
        found = copy.deepcopy(self).double()
        found.between = torch.float64
        return found


HALF, SINGLE = torch.float16, torch.float32
DTYPES = {
    "all": (HALF, HALF, HALF), "what enters": (HALF, SINGLE, SINGLE), "between": (SINGLE, HALF, SINGLE),
    "what leaves": (SINGLE, SINGLE, HALF),
}  # fmt: skip


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("where", DTYPES)
def test_a_small_gradient_passes_fp16_wherever_it_is(where: str, autocast: bool) -> None:
    """Loss scaling follows the dtypes that the network really has, under autocast to bf16 too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Narrowing(*DTYPES[where])
    settings = {**OUTPUT, "content_weight": 1e-7}
    loss, exact = make(network, **settings), make(network.exact(), **settings)
    x, y = small(2), small(2, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = value_and_gradients(loss, x, y)
    expected = [result.float() for result in value_and_gradients(exact, x.double(), y.double())]
    close(found, expected, 0.05)


class Refusing(Residual):
    """As few modules take no images."""

    def refuse(self, *arguments: object) -> dict[str, Tensor]:
        raise AssertionError("it was run")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[0] else self.refuse()["output"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_batch_does_not_run_the_network(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = make(Refusing().to(dtype))
    loss.set_style(images(1, 7, dtype=dtype))
    for target in (images(0, dtype=dtype), images(1, dtype=dtype)):
        x = images(0, dtype=dtype)
        value, *gradients = value_and_gradients(loss, x, target)
        assert value.shape == (0,) and value.dtype == dtype
        assert all(term.shape == (0,) for term in loss(x, target, return_terms=True)[1].values())
        assert [x.shape for x in gradients] == [(0, 3, 12, 14), target.shape] and not gradients[1].any()
    metric = po.LPIPS("squeeze", weights="random", reduction="none")
    monkeypatch.setattr(FeatureNetwork, "features", Refusing.refuse)
    x = images(0, size=40, dtype=torch.float32)
    value, *gradients = value_and_gradients(metric, x, x)
    assert value.shape == (0,) and [gradient.shape for gradient in gradients] == [x.shape] * 2


@pytest.mark.parametrize("engine", ["lean", "autograd"])
def test_no_module_sees_an_empty_batch(engine: str) -> None:
    """Nor as a kept target, or as a style of the call; a second derivative is as empty."""
    loss = make(Refusing(), engine=engine)
    x, y = small(0), small(0)
    for target, style in ((y, y), (small(1), small(1)), (None, None)):
        loss.set_style(x)
        loss.set_content(x)
        x.requires_grad_()
        value = loss(x, target, style)
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=engine == "autograd")
        assert value.shape == (0,) and gradient.shape == x.shape
        x = x.detach()
    assert not torch.autograd.grad(loss(x.requires_grad_(), y.requires_grad_(), y.detach()).sum(), y)[0].any()


MEMORY = torch.empty(10_000)


class IntoMemory(torch.autograd.Function):
    """x^2, in the same memory at every call: as a module that was captured in a CUDA graph gives it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        found = x.new_empty(0).set_(MEMORY.untyped_storage(), 0, x.shape, x.stride())
        return found.copy_(x.square())

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Reusing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return IntoMemory.apply(x)


@pytest.mark.parametrize("engine", ["lean", "autograd"])
def test_a_module_may_return_the_same_memory_at_every_call(engine: str) -> None:
    x, y = small(2), small(2, 1)
    loss = make(Reusing(), **OUTPUT, engine=engine)

    def expected(x: Tensor, y: Tensor) -> Tensor:
        return (x.square() - y.square()).square().mean((1, 2, 3))

    close(value_and_gradients(loss, x, y), value_and_gradients(expected, x, y), 1e-5)
    loss.set_content(y)
    close(value_and_gradients(loss, x), value_and_gradients(expected, x, y)[:2], 1e-5)
    network = ModuleFeatures(Reusing(), ["output"])
    first, second = network(x)["output"], network(y)["output"]
    assert torch.equal(first, x.square()) and torch.equal(second, y.square())


def test_a_function_may_return_the_same_memory_at_every_call() -> None:
    x = small(4)
    with torch.no_grad():
        found = po.chunked(lambda x: MEMORY[: len(x)].copy_(x.sum((1, 2, 3))), chunk_size=1)(x)
    torch.testing.assert_close(found, x.sum((1, 2, 3)))


def test_hooks_of_a_module_are_part_of_it() -> None:
    """They run once for each chunk of either image; those that come later are of another module."""
    network, sizes, backwards = Residual().eval(), [], []
    network.stem.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)) or 2 * output)
    network.norm.register_full_backward_hook(lambda module, inputs, outputs: backwards.append(len(outputs[0])))
    loss = make(network, content_layers=["mix"], style_layers=None, tv_weight=0.0)
    network.stem.register_forward_hook(lambda module, inputs, output: 0 * output)
    x, y = small(2), small(2, 1)
    found = value_and_gradients(lambda x: loss(x, y), x)
    assert sizes == [1, 1, 1, 1] and backwards == [1, 1]

    def mixed(x: Tensor) -> Tensor:
        stem = nn.functional.conv2d(x, network.stem.weight, network.stem.bias, stride=2, padding=1)
        return network.mix(torch.relu(nn.functional.batch_norm(2 * stem, *statistics)))

    norm = network.norm
    statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
    close(found, value_and_gradients(lambda x: (mixed(x) - mixed(y)).square().mean((1, 2, 3)), x), 1e-4)


@pytest.mark.parametrize("hook", [True, False])
def test_hooks_of_a_chain_are_part_of_it(hook: bool) -> None:
    """A chain that is run by hand calls none: with one it runs as a module."""
    network = po.load_network("vgg11", "random", layers=["relu1_1", "conv2_1"])
    if hook:
        network.conv1_1.register_forward_hook(lambda module, inputs, output: output - 1)
    else:
        genuine = network.conv1_1.forward  # as of packages that offload or quantise: they set another on the module
        network.conv1_1.forward = lambda x: genuine(x) - 1
    x, y = small(2), small(2, 1)
    found, expected = (
        value_and_gradients(make(network, **{**OUTPUT, "content_layers": ["conv2_1"]}, engine=engine), x, y)
        for engine in ("lean", "autograd")
    )
    close(found, expected, 1e-4)
    plain = make(po.load_network("vgg11", "random", layers=["conv2_1"]), **{**OUTPUT, "content_layers": ["conv2_1"]})
    assert (plain(x, y) - found[0]).abs().max() > 0.01 * found[0].max()


SHOWN: dict[str, Callable[[], nn.Module]] = {
    "PerceptualLoss(network=Residual (module), content=": lambda: make(Residual()),
    "PerceptualLoss(network=Residual (autograd), content=": lambda: make(Residual(), engine="autograd"),
    "PerceptualLoss(network=Sequential (chain), content=": lambda: make(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), **{**OUTPUT, "content_layers": ["1"]}
    ),
    "PerceptualLoss(network=vgg11 (chain), content=": lambda: po.PerceptualLoss("vgg11", weights="random"),
    "LPIPS(network=squeezenet1_1 (module), spatial=": lambda: po.LPIPS("squeeze", weights="random"),
    "DISTS(network=vgg16 (chain), reduction=": lambda: po.DISTS(weights="random"),
}


@pytest.mark.parametrize("text", SHOWN)
def test_a_loss_says_how_its_network_is_run(text: str) -> None:
    assert repr(SHOWN[text]()).startswith(text)
