"""cuda_graphs=True where a call is not captured: in other captures and compilers, and what no graph can repeat."""

from __future__ import annotations

from typing import Any

import cuda_stub
import pytest
import torch
from cuda_stub import Stub
from graphed import SIZE, of_module, replays, small
from perceptual import images
from test_module_trunk import Residual
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from perceptual_ops.engine import cuda_graph
from perceptual_ops.engine.cuda_graph import MAX_DROPPED, MAX_GRAPHS, MIN_REPLAYS

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.filterwarnings("error::RuntimeWarning")]


@pytest.mark.parametrize("served", [1, MIN_REPLAYS * (MAX_DROPPED - 1)])
def test_captures_that_hardly_serve_end(served: int, graph_stub: Stub) -> None:
    """A weight that is another one in each call, after one that was not: it may have been worth the rest."""
    ours, plain = (small(content_layers=["relu1_1"], cuda_graphs=graphs) for graphs in (True, False))
    x, y = images(1, SIZE), images(1, SIZE, seed=1)
    for _ in range(served):
        ours(x, y)

    def anneal(step: int) -> None:
        ours.content_weight = plain.content_weight = 0.9**step
        assert torch.equal(ours(x, y), plain(x, y))

    captured = MAX_GRAPHS + MAX_DROPPED - 1
    for step in range(1, captured):
        anneal(step)
    assert len(graph_stub.captures) == captured
    if served > 1:
        anneal(50)
        assert len(graph_stub.captures) == captured + 1
        return
    with pytest.warns(RuntimeWarning, match=f"got other shapes or settings again and again: {captured + 1} kinds"):
        anneal(50)
    anneal(51)  # without another warning, which would be an error
    assert len(graph_stub.captures) == captured and replays(ours) == []
    ours.cuda_graphs = True
    anneal(52)
    assert replays(ours) == [1]


class Waiting(Residual):
    """Asks a tensor for its number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.mean().item() > -1e9 else x


class Copying(Residual):
    """Moves a tensor of one device to another."""

    def forward(self, x: Tensor) -> Tensor:
        torch.zeros(3, device="meta").copy_(torch.zeros(3))
        return super().forward(x)


@pytest.mark.parametrize("module", [Waiting, Copying])
def test_what_cannot_be_captured_runs_without(module: type[nn.Module], graph_device: str) -> None:
    ours, plain = (of_module(module(), cuda_graphs=graphs).to(graph_device) for graphs in (True, False))
    ours._network.load_state_dict(plain._network.state_dict())
    x, y = images(1, SIZE, device=graph_device).requires_grad_(), images(1, SIZE, 1, graph_device)
    cause = {Waiting: "_local_scalar_dense", Copying: "copy_.default between devices"}[module]
    with pytest.warns(RuntimeWarning, match=rf"cuda_graphs: .* got one that a capture ends at: aten.{cause}"):
        assert torch.equal(ours(x, y), plain(x, y))
    assert torch.equal(ours(x, y), plain(x, y)) and not replays(ours)


def test_capture_that_cuda_breaks_off(graph_stub: Stub) -> None:
    """torch goes on as before: on its stream, and with no memory reserved for the graph."""
    ours, plain = (small(cuda_graphs=graphs) for graphs in (True, False))
    x, y = images(1, SIZE), images(1, SIZE, seed=1)
    graph_stub.breaks_at = "perceptual_ops.feature_loss.default"
    with pytest.warns(RuntimeWarning, match="ends at: CUDA error: operation not permitted .* capturing; this loss"):
        assert torch.equal(ours(x, y), plain(x, y))
    assert graph_stub.ended == graph_stub.pools and graph_stub.current_stream() is graph_stub.main
    graph_stub.breaks_at = ""
    assert torch.equal(ours(x, y), plain(x, y)) and not graph_stub.captures
    ours.cuda_graphs = True
    assert torch.equal(ours(x, y), plain(x, y)) and replays(ours) == [1]


def test_errors_of_the_call_are_its_own(graph_device: str) -> None:
    class Failing(Residual):
        def forward(self, x: Tensor) -> Tensor:
            raise ArithmeticError("of the module")

    loss = of_module(Failing(), cuda_graphs=True).to(graph_device)
    with pytest.raises(ArithmeticError, match="of the module"):
        loss(images(1, SIZE, device=graph_device), images(1, SIZE, 1, graph_device))


def test_ordinary_calls_within_another_capture(graph_stub: Stub) -> None:
    loss, x = small(cuda_graphs=True), images(1, SIZE)
    graph_stub.capturing = graph_stub.main
    loss(x, x)
    assert not graph_stub.captures
    graph_stub.capturing = None
    loss(x, x)
    assert len(graph_stub.captures) == 1


def test_ordinary_calls_in_compiled_code(graph_stub: Stub) -> None:
    loss, x = small(cuda_graphs=True), images(1, SIZE)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, x + 0.1), loss(x, x + 0.1))
    assert [graph.replays for graph in graph_stub.captures] == [1]


def test_ordinary_calls_where_every_operation_is_to_be_seen(graph_stub: Stub) -> None:
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    loss, x = small(cuda_graphs=True), images(1, SIZE)
    with Seen():
        loss(x, x)
    assert not graph_stub.captures

    def seen(x: Tensor) -> Tensor:
        assert not cuda_graph.may_capture(x)
        return x

    torch.vmap(seen)(x)
    assert cuda_graph.may_capture(x)


@pytest.mark.parametrize("settings", [{}, {"engine": "autograd"}], ids=["CPU", "autograd"])
def test_ordinary_calls_elsewhere(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if settings:
        cuda_stub.install(monkeypatch)
    loss, x = small(cuda_graphs=True, **settings), images(1, SIZE)
    loss(x, x)
    assert not replays(loss)


def test_empty_batch(graph_device: str) -> None:
    loss, x = small(cuda_graphs=True).to(graph_device), images(0, SIZE, device=graph_device)
    loss(x, x)
    assert not replays(loss)
