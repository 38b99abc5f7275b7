"""What is derived from a network's weights and kept: when it is made, in which dtype, and for which streams."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from perceptual import images, make
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import perceptual_ops as po
from perceptual_ops.compat import _kept
from perceptual_ops.engine import trunk
from perceptual_ops.engine.modes import made_to_keep

X, Y = images(1, 36), images(1, 36, seed=1)
CONVOLUTIONS = 2  # up to conv2_1 of VGG11


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch, library: None) -> list[torch.dtype]:
    """The dtypes of the convolutions that are prepared, in their order."""
    dtypes: list[torch.dtype] = []

    class Recorded(trunk.FrozenConv):
        def __init__(self, module: nn.Conv2d, layer: po.networks.Conv, dtype: torch.dtype) -> None:
            super().__init__(module, layer, dtype)
            dtypes.append(dtype)

    monkeypatch.setattr(trunk, "FrozenConv", Recorded)
    return dtypes


def test_one_dtype_is_prepared_once_and_none_before_it_is_used(derived: list[torch.dtype]) -> None:
    loss = make(style_layers=None).to(torch.float64).to(torch.float32)
    assert not derived
    for _ in range(2):
        loss(X, Y)
        assert derived == [torch.float32] * CONVOLUTIONS
        loss.to("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss(X, Y)
    assert derived == [torch.float32] * CONVOLUTIONS + [torch.bfloat16] * CONVOLUTIONS
    make(style_layers=None, engine="autograd")(X, Y)
    make(style_layers=None, backend="reference")(X, Y)
    assert len(derived) == 2 * CONVOLUTIONS


def autocast(loss: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return loss(x, Y)


COMPILED: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "perceptual": (make, lambda loss, x: loss(x, Y, Y)),
    "a dtype of its own": (lambda: make(compute_dtype="bfloat16"), lambda loss, x: loss(x, Y, Y)),
    "autocast": (lambda: make(style_layers=None), autocast),
    "lpips": (lambda: po.LPIPS("alex", weights="random"), lambda loss, x: loss(x, Y)),
    "dists": (lambda: po.DISTS(weights="random"), lambda loss, x: loss(x, Y)),
}


@pytest.mark.parametrize("name", COMPILED)
def test_operators_of_compiled_code_make_nothing_to_keep(name: str, derived: list[torch.dtype]) -> None:
    """Their first run may be the warm-up of a CUDA graph, in whose memory nothing may stay."""
    make_loss, call = COMPILED[name]
    loss, counts = make_loss(), []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        counts.append(len(derived))
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    for moved in (loss, loss.to(torch.float64)) if loss.compute_dtype is None else (loss,):
        compiled(moved, X)
        assert counts[-1] == len(derived) > 0
    assert counts == sorted(set(counts))


def test_compiled_code_is_compiled_again_for_other_weights_alone(library: None) -> None:
    """A CUDA graph of it holds the addresses of what was derived from the weights of before."""
    loss, counter = make(style_layers=None), CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: loss(x, Y), fullgraph=True, backend=counter)
    compiled(X)
    loss.to("cpu").to(torch.float32).eval()
    before = compiled(X)
    assert counter.frame_count == 1
    loss.replace_network_weights({name: 2 * x for name, x in loss.frozen_network.state_dict().items()})
    after = compiled(X)
    assert counter.frame_count == 2
    assert torch.equal(after, loss(X, Y))
    assert not torch.equal(after, before)


class Stream:
    """Of a GPU that is not there: its work is done when the host has waited for it."""

    def __init__(self) -> None:
        self.waited = 0

    def synchronize(self) -> None:
        self.waited += 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.local]:
    """torch.cuda as far as weights ask it: `current`, a thread's stream, and the `capturing` ones."""
    state = threading.local()
    state.current, state.capturing = Stream(), set()
    capturing = state.capturing

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        before, state.current = getattr(state, "current", None), stream
        yield
        state.current = before

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: state.current)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state.current in capturing)
    return state


def test_the_host_waits_for_the_stream_that_prepares(gpu: threading.local) -> None:
    def work() -> tuple[Stream, int]:
        return gpu.current, gpu.current.waited

    stream, waited_before = made_to_keep(work, torch.device("cuda", 1))
    assert stream is gpu.current
    assert (waited_before, stream.waited) == (0, 1)


def test_nothing_is_prepared_within_a_capture(
    gpu: threading.local, derived: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk, "kind_of", lambda network: (torch.float32, torch.device("cuda", 0)))
    loss = make(style_layers=None)
    gpu.capturing.add(gpu.current)
    with pytest.raises(RuntimeError, match=r"^CUDA graph: expected .* make one call before the capture"):
        loss(X, Y)
    assert not derived
    gpu.capturing.clear()
    before = loss(X, Y)
    assert gpu.current.waited == 1
    gpu.capturing.add(gpu.current)
    assert torch.equal(loss(X, Y), before)


def test_networks_of_functions_are_ready_for_every_stream(
    gpu: threading.local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Module, "to", lambda module, *_: module)  # there is no such device
    _kept._made(lambda name, weights: nn.Identity(), "any", "random", torch.device("cuda", 0), torch.float32)
    assert gpu.current.waited == 1


def test_what_is_kept_is_made_in_no_mode_of_the_caller() -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        made = made_to_keep(lambda: torch.ones(2, 2) @ torch.ones(2, 2), torch.device("cpu"))
    assert (made.device.type, made.dtype, made.is_inference()) == ("cpu", torch.float32, False)
