"""Weights of samples in a CUDA graph that you capture: nothing of the host's memory is read in a replay."""

from __future__ import annotations

import pytest
import torch
from cuda_stub import Graph, Stream, Stub
from graphed import SIZE, small
from perceptual import images
from torch import Tensor

WEIGHT = [0.0, 2.0, -0.5]


@pytest.fixture
def of_host(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is made of Python's numbers."""
    found, tensor = [], torch.tensor

    def spy(*arguments: object, **settings: object) -> Tensor:
        found.append(tensor(*arguments, **settings))
        return found[-1]

    monkeypatch.setattr(torch, "tensor", spy)
    return found


def test_a_list_is_constant(graph_stub: Stub, of_host: list[Tensor]) -> None:
    loss, x, y, graph = small(reduction="none"), images(3, SIZE), images(3, SIZE, seed=1), Graph()
    wanted = loss(x, y, sample_weight=WEIGHT)
    of_host.clear()
    with graph_stub.graph(graph, object(), Stream(), "thread_local"):
        found = loss(x, y, sample_weight=WEIGHT)
    for made in of_host:  # freed, and another's by now
        made.fill_(torch.nan)
    graph.replay()
    assert wanted.any() and torch.equal(found, wanted)


def test_a_tensor_of_the_device_is_read_in_each_replay(graph_stub: Stub) -> None:
    loss, x, y, graph = small(reduction="none"), images(3, SIZE), images(3, SIZE, seed=1), Graph()
    weight, values = torch.tensor(WEIGHT), loss(x, y)
    with graph_stub.graph(graph, object(), Stream(), "thread_local"):
        found = loss(x, y, sample_weight=weight)
    for _ in range(2):
        weight.copy_(weight.flip(0) + 1)
        graph.replay()
        torch.testing.assert_close(found, weight * values)
