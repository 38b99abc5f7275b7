"""Your own modules on the lean engine: the graph of one chunk inside of an operator."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from placement import placed
from torch import Tensor, nn

import perceptual_ops as po

pytestmark = pytest.mark.usefixtures("on_device")


class Residual(nn.Module):
    """No chain: a skip, an in-place addition, batch norm, tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        mixed = self.mix(x)
        mixed += x
        return self.head(torch.relu(mixed).flatten(2).transpose(1, 2))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Residual().double().eval()


def images(batch: int, seed: int = 0, size: int = 12, dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return placed(torch.rand(batch, 3, size, size + 2, generator=drawn, dtype=torch.float64).to(dtype))


LAYERS = {"content_layers": {"mix": 1.0, "output": 0.5}, "style_layers": {"mix": 30.0}, "tv_weight": 0.1}


def make(network: nn.Module, **settings: object) -> po.PerceptualLoss:
    return placed(po.PerceptualLoss(network, **{**LAYERS, "reduction": "none", "chunk_size": 1, **settings}))


def value_and_gradients(loss: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    value = loss(*leaves)
    upstream = torch.arange(1, 1 + value.numel()).to(value).view(value.shape)
    return [value.detach(), *torch.autograd.grad(value, leaves, upstream)]


def close(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-12) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance * other.abs().max().item())


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
@pytest.mark.parametrize("settings", [{}, {"normalize_features": "channel"}, {"content_distance": "cosine"}], ids=str)
def test_it_equals_autograd(network: nn.Module, settings: dict[str, object], chunk_size: int) -> None:
    """Both images may want a gradient; kept targets and one for all are the same numbers."""
    lean, autograd = make(network, chunk_size=chunk_size, **settings), make(network, engine="autograd", **settings)
    for loss in (lean, autograd):
        loss.set_style(images(1, 7))
    x, y = images(3), images(3, 1)
    close(value_and_gradients(lean, x, y), value_and_gradients(autograd, x, y))
    close(value_and_gradients(lean, x, y[:1]), value_and_gradients(autograd, x, y[:1]))
    for loss in (lean, autograd):
        loss.set_content(y)
    close(value_and_gradients(lean, x), value_and_gradients(autograd, x))
    parts = [loss(x, y, return_terms=True)[1] for loss in (lean, autograd)]
    torch.testing.assert_close(*parts)


def test_normalised_grams_of_an_image_and_of_its_style_are_the_same(network: nn.Module) -> None:
    loss = make(network, content_layers=None, tv_weight=0.0, normalize_features="channel")
    loss.set_style(images(2))
    assert loss(images(2)).max() < 1e-20 < loss(images(2, 1)).min()


def test_pixels_without_features_have_no_gradient() -> None:
    """Where all channels of a pixel are 0, unit length has no direction; black has such features here."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Tanh()).double()
    settings = {"content_layers": ["1"], "style_layers": ["1"], "normalize_features": "channel"}
    lean, autograd = (make(network, engine=engine, **settings) for engine in ("lean", "autograd"))
    x, y = images(2), images(2, 1)
    x[:, :, :4] = 0
    for loss in (lean, autograd):
        loss.set_style(images(1, 7))
        loss.tv_weight = 0.0
    found = value_and_gradients(lean, x, y)
    assert not found[1][:, :, :4].any() and found[1].any()
    close(found, value_and_gradients(autograd, x, y))


def test_it_equals_autograd_under_autocast(network: nn.Module) -> None:
    network = copy.deepcopy(network).float()
    lean, autograd = (make(network, engine=engine, style_layers=None, tv_weight=0.0) for engine in ("lean", "autograd"))
    x, y = images(2, dtype=torch.float32), images(2, 1, dtype=torch.float32)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        close(value_and_gradients(lean, x, y), value_and_gradients(autograd, x, y), 0.02)
    for loss in (lean, autograd):
        loss.compute_dtype = torch.bfloat16
    close(value_and_gradients(lean, x, y), value_and_gradients(autograd, x, y), 0.02)


def test_a_small_loss_has_a_gradient_in_fp16(network: nn.Module) -> None:
    """That of a mean is below what fp16 holds: it is scaled."""
    network = copy.deepcopy(network).float()
    x, y = images(2, dtype=torch.float32), images(2, 1, dtype=torch.float32)
    for settings in ({}, {"normalize_features": "channel"}, {"content_distance": "cosine"}):
        small = {"content_weight": 1e-7, "style_weight": 1e-7, "tv_weight": 0.0, **settings}
        loss, exact = make(network, compute_dtype=torch.float16, **small), make(network, **small)
        for each in (loss, exact):
            each.set_style(images(1, 7, dtype=torch.float32))
        close(value_and_gradients(loss, x, y), value_and_gradients(exact, x, y), 0.02)


class Held(torch.autograd.Function):
    """The identity, whose graph counts how much of it is alive."""

    alive: int = 0
    most: int = 0
    backwards: int = 0

    @staticmethod
    def forward(ctx, x):
        Held.alive += len(x)
        Held.most = max(Held.most, Held.alive)
        weakref.finalize(ctx, Held.release, len(x))
        return x.clone()

    @staticmethod
    def release(samples: int) -> None:
        Held.alive -= samples

    @staticmethod
    def backward(ctx, grad):
        Held.backwards += 1
        return grad


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return Held.apply(self.conv(x)) if x.requires_grad else self.conv(x)


@pytest.fixture
def counted() -> Iterator[nn.Module]:
    Held.alive = Held.most = Held.backwards = 0
    yield Counted()


def test_one_chunk_is_alive_at_a_time_and_no_backward_follows(counted: nn.Module) -> None:
    loss = placed(po.PerceptualLoss(counted, content_layers=["output"], chunk_size=2))
    x = images(6, dtype=torch.float32).requires_grad_()
    value = loss(x, images(6, 1, dtype=torch.float32))
    assert (Held.alive, Held.most, Held.backwards) == (0, 2, 3)
    first = torch.autograd.grad(value, x, retain_graph=True)[0]
    second = torch.autograd.grad(value, x, retain_graph=True)[0]
    value.backward()
    assert torch.equal(first, second) and torch.equal(first, x.grad) and Held.backwards == 3
    with torch.no_grad():
        loss(x, images(6, 1, dtype=torch.float32))
    assert Held.backwards == 3


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batches(network: nn.Module, batch: int) -> None:
    loss = make(network)
    loss.set_style(images(1, 7))
    value, gradient, _ = value_and_gradients(loss, images(batch), images(batch, 1))
    assert value.shape == (batch,) and gradient.shape == (batch, 3, 12, 14)


def test_same_input_same_bits(network: nn.Module) -> None:
    loss = make(network, style_layers=None)
    runs = [value_and_gradients(loss, images(3), images(3, 1)) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_copies_move_and_pickle(network: nn.Module) -> None:
    loss = make(network, style_layers=None)
    expected = value_and_gradients(loss, images(2), images(2, 1))
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss).float().double()):
        close(value_and_gradients(other, images(2), images(2, 1)), expected, 1e-6)


def test_a_broken_image_has_a_broken_loss(network: nn.Module) -> None:
    x = images(2)
    x[1, 0, 3, 3] = torch.nan
    value, gradient, _ = value_and_gradients(make(network, style_layers=None), x, images(2, 1))
    assert value[0].isfinite() and value[1].isnan() and gradient[0].isfinite().all() and gradient[1].isnan().any()


@pytest.mark.parametrize("dynamic", [None, True])
def test_every_way_of_calling_compiles(network: nn.Module, dynamic: bool | None) -> None:
    loss = make(copy.deepcopy(network).float(), normalize_features="channel")
    style = images(1, 7, dtype=torch.float32)
    x, y = images(2, dtype=torch.float32), images(2, 1, dtype=torch.float32)
    loss.set_style(style)
    loss.set_content(y)
    calls: list[Callable[[Tensor], Tensor]] = [
        lambda x: loss(x, y, style),
        lambda x: loss(x),
        lambda x: loss(x, y),
        lambda x: loss(x, x.detach() / 2),
    ]
    for call in calls if dynamic else calls[:1]:  # how targets are given, and how sizes are, do not meet
        compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        close(value_and_gradients(compiled, x), value_and_gradients(call, x), 1e-5)


def test_the_operator_keeps_its_contract(network: nn.Module) -> None:
    from perceptual_ops.engine import perceptual_op

    loss = make(network, style_layers=None)
    arguments: list[tuple] = []
    original = perceptual_op._perceptual_loss

    def note(*given: object) -> object:
        arguments.append(given)
        return original(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual_op, "_perceptual_loss", note)
        loss(images(2).requires_grad_(), images(2, 1).requires_grad_())
    torch.library.opcheck(original, arguments[0])


def test_a_second_derivative_is_refused(network: nn.Module) -> None:
    x = images(1).requires_grad_()
    with pytest.raises(RuntimeError, match='make the loss with engine="autograd" for create_graph=True'):
        torch.autograd.grad(make(network, style_layers=None)(x, images(1, 1)).sum(), x, create_graph=True)


def test_a_module_that_lets_no_gradient_through_is_refused() -> None:
    class Detached(Residual):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    loss = placed(po.PerceptualLoss(Detached(), content_layers=["mix"]))
    x, y = images(1, dtype=torch.float32), images(1, 1, dtype=torch.float32)
    assert loss(x, y).isfinite()
    with pytest.raises(
        RuntimeError, match="network: expected a gradient from mix to the images, there is none; Detached must not"
    ):
        loss(x.requires_grad_(), y)


def test_a_module_may_overwrite_its_images() -> None:
    class Normalising(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5).div_(0.25))

    loss, expected = make(Normalising(), style_layers=None), make(Residual(), style_layers=None, mean=[0.5], std=[0.25])
    expected.replace_network_weights(loss.frozen_network.state_dict())
    x, y = images(2, dtype=torch.float32), images(2, 1, dtype=torch.float32)
    before = x.clone()
    close(value_and_gradients(loss, x, y), value_and_gradients(expected, x, y), 1e-5)
    assert torch.equal(x, before)


def test_clips() -> None:
    """(N, C, D, H, W) in, maps of all depths out."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Tanh(), nn.Conv3d(4, 5, (1, 3, 3), stride=2)).double()
    settings = {"content_layers": ["0", "output"], "style_layers": ["2"], "mean": (0.4, 0.5, 0.6), "tv_weight": 0.0}
    lean, autograd = (make(network, engine=engine, **settings) for engine in ("lean", "autograd"))
    x, y = (torch.stack([images(2, seed + i) for i in range(4)], 2) for seed in (0, 10))
    for loss in (lean, autograd):
        loss.set_style(y[:1])
    close(value_and_gradients(lean, x, y), value_and_gradients(autograd, x, y))


def test_squeezenet_of_lpips() -> None:
    lean, autograd = (
        placed(po.LPIPS("squeeze", weights="random", engine=engine, chunk_size=1).double())
        for engine in ("lean", "autograd")
    )
    x, y = images(2, size=40), images(2, 1, size=40)
    close(value_and_gradients(lean, x, y), value_and_gradients(autograd, x, y))
    close(value_and_gradients(lean, x, y[:1]), value_and_gradients(autograd, x, y[:1]))
