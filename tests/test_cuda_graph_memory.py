"""The memory of CUDA graphs: whose results are, who shares it, on which streams, and what a graph holds on to."""

from __future__ import annotations

import threading

import pytest
import torch
from cuda_stub import Stream, Stub, memory
from graphed import SIZE, of_module, replays, small
from perceptual import images
from test_module_trunk import Residual
from torch import Tensor

from perceptual_ops.engine import cuda_graph

pytestmark = [pytest.mark.usefixtures("library"), pytest.mark.filterwarnings("error::RuntimeWarning")]


def test_results_are_the_callers_own(graph_device: str) -> None:
    loss, x = small(cuda_graphs=True, reduction="none").to(graph_device), images(2, SIZE, device=graph_device)
    leaf, y = x.clone().requires_grad_(), images(2, SIZE, 1, graph_device)
    first = loss(leaf, y)
    kept = first.detach().clone()
    (before,) = torch.autograd.grad(first.sum(), leaf, retain_graph=True)
    loss(images(2, SIZE, 2, graph_device).requires_grad_(), y)
    (after,) = torch.autograd.grad(first.sum(), leaf)
    assert torch.equal(first, kept) and torch.equal(before, after)


def test_threads(graph_device: str) -> None:
    """Each has its own result, of one graph."""
    loss = small(cuda_graphs=True).to(graph_device)
    pairs = [(images(1, SIZE, seed, graph_device), images(1, SIZE, seed + 20, graph_device)) for seed in range(6)]
    expected = [small().to(graph_device)(*pair) for pair in pairs]
    start, found = threading.Barrier(len(pairs)), [torch.empty(0)] * len(pairs)

    def run(i: int) -> None:
        start.wait(600)
        for _ in range(3):
            found[i] = loss(*pairs[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(pairs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert all(torch.equal(ours, plain) for ours, plain in zip(found, expected, strict=True))
    assert replays(loss) == [3 * len(pairs)]


def test_streams_wait_for_each_other(graph_stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one replays, the next does not overwrite; and memory is not handed out while another stream reads it."""
    recorded: list[tuple[int, Stream]] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda x, stream: recorded.append((x.data_ptr(), stream)))
    loss, x, other = small(cuda_graphs=True), images(1, SIZE), Stream()
    loss(x, x)
    assert not recorded
    with graph_stub.stream(other):
        loss(x, x)
    shared = loss._trunk.graphs._shared
    assert shared.done.records == [graph_stub.main, other] and other.waits == [shared.done]
    (captured,) = loss._trunk.graphs._captured.values()
    own = [x.data_ptr() for x in cuda_graph._tensors(captured.arguments)]
    assert recorded == [(address, other) for address in own]
    assert graph_stub.main in shared.warm_up.waits and shared.warm_up in graph_stub.main.waits


def test_graphs_of_a_loss_share_memory(graph_stub: Stub) -> None:
    first, second = (small(cuda_graphs=True) for _ in range(2))
    for loss, batch in ((first, 1), (first, 2), (second, 1)):
        loss(images(batch, SIZE), images(batch, SIZE))
    assert graph_stub.pools[0] is graph_stub.pools[1] is not graph_stub.pools[2]


class Sized(Residual):
    """Keeps something for the last size alone."""

    def forward(self, x: Tensor) -> Tensor:
        if getattr(self, "kept", x[..., :1]).shape != x.shape:
            self.kept = 1 + torch.rand(x.shape, device=x.device)
        return super().forward(x * self.kept)


def test_what_a_graph_reads_outlives_it(graph_device: str) -> None:
    loss = of_module(Sized(), cuda_graphs=True).to(graph_device)
    x = images(1, SIZE, device=graph_device)
    loss(x, x * 0.9)
    (captured,) = loss._trunk.graphs._captured.values()
    read, module = {memory(x) for x in captured.read}, loss._network.module
    assert {memory(module.kept), memory(module.stem.weight)} <= read
    known = [module.kept, *module.parameters(), *module.buffers(), *cuda_graph._tensors(captured.arguments)]
    assert read <= {memory(x) for x in known}  # and nothing that it makes, which would take memory
