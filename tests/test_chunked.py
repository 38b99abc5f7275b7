"""Losses of one's own in chunks, against the same by ordinary autograd: numbers, modes, compiled."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from placement import placed
from small_losses import adversarial, patch_gan, rand, reward
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional

import perceptual_ops as po
from perceptual_ops.engine.chunked_op import PerSample, function_of

pytestmark = pytest.mark.usefixtures("on_device")

UPSTREAM = torch.tensor([1.0, -2.5, 0.75, 3.0, 0.0], dtype=torch.float64)


def value_and_gradient(fn: Callable[..., Tensor], output: Tensor, *others: Tensor) -> list[Tensor]:
    x = output.detach().clone().requires_grad_()
    values = fn(x, *others)
    return [values.detach(), *torch.autograd.grad(values, x, UPSTREAM[: len(values)].to(values))]


def latents(z: Tensor, y: Tensor) -> Tensor:
    return (z.tanh() - y).square().flatten(1).mean(1)


def tokens(t: Tensor, n: Tensor) -> Tensor:
    return (t.softmax(-1)[:, :, 0] * n).sum(1)


CASES = {
    "reward": lambda: (reward(), rand(5, 3, 24, 20), rand(5, 12, seed=1)),
    "a text for all": lambda: (reward(), rand(5, 3, 24, 20), rand(1, 12, seed=1)),
    "discriminator": lambda: (adversarial, rand(5, 3, 24, 20)),
    "latents": lambda: (latents, rand(5, 4, 2, 3, 3), rand(5, 4, 2, 3, 3)),
    "tokens": lambda: (tokens, rand(5, 7, 4), placed(torch.arange(35).view(5, 7))),
    "numbers": lambda: (torch.exp, rand(5)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 9])
def test_equal_to_autograd_in_fp64(case: str, chunk_size: int) -> None:
    fn, *tensors = CASES[case]()
    ours = value_and_gradient(po.chunked(fn, chunk_size=chunk_size), *tensors)
    for got, expected in zip(ours, value_and_gradient(fn, *tensors), strict=True):
        assert expected.any()
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_gradcheck() -> None:
    fn, images, text = reward(), rand(3, 3, 16, 16), rand(3, 12, seed=1)
    loss = po.chunked(fn, chunk_size=2)
    assert torch.autograd.gradcheck(lambda x: loss(x, text), images.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch: int) -> None:
    calls = []

    def fn(x: Tensor) -> Tensor:
        calls.append(len(x))
        return adversarial(x)

    x = rand(batch, 3, 16, 16).requires_grad_()
    values = po.chunked(fn, chunk_size=2)(x)
    values.sum().backward()
    assert calls == [1] * batch  # few functions take an empty chunk
    assert values.shape == (batch,) and x.grad is not None and x.grad.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    """The loss is fp32, the gradient has the output's dtype, and the strides do not matter."""
    x = rand(3, 3, 8, 10, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    values = po.chunked(lambda x: x.float().square().mean((1, 2, 3)), chunk_size=2)(x)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert values.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(gradient, (2 / 240 * x.detach().float()).to(dtype))


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_is_the_callers(compiled: bool) -> None:
    network, seen = placed(nn.Linear(4, 4).requires_grad_(False)), []

    def fn(x: Tensor) -> Tensor:
        features = network(x)
        seen.append(features.dtype)
        return features.float().square().sum(1)

    loss, x = po.chunked(fn, chunk_size=3), rand(3, 4, dtype=torch.float32).requires_grad_()
    step = torch.compile(lambda x: loss(x), fullgraph=True, backend="aot_eager") if compiled else loss
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
            step(x).sum().backward()
    assert seen == [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_of_an_island_in_fp32_is_in_fp32(dtype: torch.dtype) -> None:
    """As rewards are run under autocast; a small one would vanish in fp16."""
    network = placed(nn.Linear(4, 4).requires_grad_(False))

    def fn(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return 1e-9 * network(x.float()).square().sum(1)

    x = rand(3, 4, dtype=torch.float32).requires_grad_()
    (expected,) = torch.autograd.grad(fn(x).sum(), x)
    with torch.autocast(x.device.type, dtype=dtype):
        value = po.chunked(fn, chunk_size=2)(x).sum()
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], expected, rtol=1e-5, atol=0)


def test_a_gradient_through_fp16_neither_vanishes_nor_overflows() -> None:
    """As of autocast, far below what fp16 holds, and above it for one sample, beside a NaN."""
    factors = placed(torch.tensor([1e-8, 1.0, 3e3, 1.0]).view(4, 1, 1))

    def fn(x: Tensor, factor: Tensor) -> Tensor:
        return ((x.half() * 2).float() * factor).sum((1, 2))

    x = rand(4, 3, 3, dtype=torch.float32)
    x[3, 0, 0] = torch.nan
    expected = (2 * factors).expand(4, 3, 3)
    (gradient,) = value_and_gradient(po.chunked(fn, chunk_size=4), x, factors)[1:]
    torch.testing.assert_close(gradient, expected * UPSTREAM[:4].to(expected).view(4, 1, 1), rtol=1e-3, atol=0)


def test_nan_stays_in_its_sample() -> None:
    fn, x, text = CASES["reward"]()
    x = x[:3].clone()
    x[1, 0, 0, 0] = torch.nan
    values, gradient = value_and_gradient(po.chunked(fn, chunk_size=2), x, text[:3])
    assert values.isnan().tolist() == gradient.flatten(1).isnan().any(1).tolist() == [False, True, False]


def test_the_same_bits_every_time_and_from_threads() -> None:
    fn, *tensors = CASES["reward"]()
    loss = po.chunked(fn, chunk_size=2)
    expected, found = value_and_gradient(loss, *tensors), []
    threads = [threading.Thread(target=lambda: found.append(value_and_gradient(loss, *tensors))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(a, b) for result in found for a, b in zip(result, expected, strict=True))


def test_other_losses_within() -> None:
    """LPIPS of decoded latents, and chunked in chunked."""
    lpips = placed(po.LPIPS("alex", weights="random"))
    decoder = placed(nn.ConvTranspose2d(4, 3, 8, 8).requires_grad_(False))
    z, y = rand(3, 4, 8, 8, dtype=torch.float32), rand(3, 3, 64, 64, dtype=torch.float32)

    def fn(z: Tensor, y: Tensor) -> Tensor:
        return lpips(decoder(z).tanh(), y)

    expected = value_and_gradient(fn, z, y)
    inner = po.chunked(fn, chunk_size=1)
    for ours in (inner, po.chunked(lambda z, y: inner(z, y), chunk_size=2)):
        torch.testing.assert_close(value_and_gradient(ours, z, y), expected)


def test_fn_may_write_into_what_it_is_given() -> None:
    def fn(x: Tensor, y: Tensor) -> Tensor:
        return (functional.relu(x, inplace=True) + y.mul_(0)).sum(1)

    x, y = rand(3, 4) - 0.5, rand(3, 4, seed=1)
    kept = x.clone(), y.clone()
    _, gradient = value_and_gradient(po.chunked(fn, chunk_size=2), x, y)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])
    assert torch.equal(gradient, (x > 0) * UPSTREAM[:3, None].to(x))
    with torch.no_grad():
        po.chunked(fn, chunk_size=2)(x, y)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled_without_a_graph_break(dynamic: bool | None) -> None:
    body, loss = placed(nn.Conv2d(3, 3, 3).double()), po.chunked(reward(), chunk_size=2)
    counter = CompileCounterWithBackend("aot_eager")

    def step(x: Tensor, text: Tensor) -> Tensor:
        return loss(body(x).sigmoid(), text).mean()

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend=counter)
    for batch in (3, 4, 5):
        x, text = rand(batch, 3, 18, 18), rand(batch, 12, seed=1)
        results = [torch.autograd.grad(run(x, text), list(body.parameters())) for run in (step, compiled)]
        torch.testing.assert_close(results[1], results[0])
    assert counter.frame_count <= 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_programs_hold_fn_itself() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = patch_gan()
            self.loss = po.chunked(lambda x: -self.network(x).mean((1, 2, 3)), chunk_size=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.loss(x)

    module, example, x = placed(Loss()), rand(2, 3, 16, 16), rand(3, 3, 16, 16)
    exported = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    traced = torch.jit.trace(module, (example,), check_trace=False)
    for program, text in ((exported.module(), exported.graph), (traced, traced.inlined_graph)):
        assert "perceptual_ops::" not in str(text) and "perceptual_ops." not in str(text)
        for got, expected in zip(value_and_gradient(program, x), value_and_gradient(module, x), strict=True):
            torch.testing.assert_close(got, expected)


def test_a_guest_in_a_model() -> None:
    """fn is neither trained, saved nor moved with it; a copy has its own."""
    model = nn.Linear(2, 2)
    model.loss = po.chunked(patch_gan(), chunk_size=3)
    assert len(list(model.parameters())) == 2 and set(model.state_dict()) == {"weight", "bias"}
    model.train().float()
    assert not model.loss.fn.training and next(model.loss.fn.parameters()).dtype == torch.float64
    for other in (copy.deepcopy(model.loss), pickle.loads(pickle.dumps(model.loss))):
        assert other._key != model.loss._key and other.fn is not model.loss.fn and other.chunk_size == 3
        assert function_of(other._key) is other.fn
    assert repr(model.loss) == "chunked(Sequential, chunk_size=3)"


@pytest.mark.parametrize("wanted", [False, True])
def test_the_operator_keeps_its_contract(wanted: bool) -> None:
    function = PerSample(lambda x, y: (x * y).flatten(1).sum(1))
    output = rand(3, 4, 2).mT.requires_grad_(wanted)
    arguments = (output, [rand(3, 2, 4)], function.key, 2, None, True, wanted)
    torch.library.opcheck(torch.ops.perceptual_ops.chunked, arguments)
