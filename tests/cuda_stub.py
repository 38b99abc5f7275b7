"""What the engine asks of torch.cuda's graphs, on the CPU: a capture records its operations, a replay repeats them.

Every operation of a replay reads and writes the memory of the capture, as a GPU does: what was a number of Python stays
that number, and what was made during the capture holds nothing before the first replay.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from perceptual_ops.engine import cuda_graph


class Stream:
    """The CPU runs one thing after another: nothing waits."""

    def __init__(self) -> None:
        self.waits: list[Stream | Event] = []

    def wait_stream(self, other: Stream) -> None:
        self.waits.append(other)

    def wait_event(self, event: Event) -> None:
        self.waits.append(event)


class Event:
    def __init__(self) -> None:
        self.records: list[Stream] = []

    def record(self, stream: Stream) -> None:
        self.records.append(stream)


Operation = tuple[Any, Any, Any, Any]  # a function, its arguments, those by keyword, and its results


class Recorder(TorchDispatchMode):
    """Runs what is captured, and keeps it to be run again; breaks off at an operation."""

    def __init__(self, breaks_at: str) -> None:
        super().__init__()
        self.breaks_at, self.is_broken = breaks_at, False
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) == self.breaks_at:
            self.is_broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nMore lines.")
        results = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, results))
        return results


class Graph:
    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.replays = 0

    def end(self, operations: list[Operation]) -> None:
        """Of a capture, whose results were never computed."""
        self.operations = operations
        for _, args, kwargs, results in operations:
            for x in made(args, kwargs, results):
                if x.layout == torch.strided:
                    x.fill_(float("nan") if x.is_floating_point() else 0)

    def replay(self) -> None:
        assert self.operations, "a capture has ended"
        self.replays += 1
        with torch.no_grad():
            for func, args, kwargs, results in self.operations:
                for old, new in zip(
                    made(args, kwargs, results), made(args, kwargs, func(*args, **kwargs)), strict=True
                ):
                    old.copy_(new)


def made(args: Any, kwargs: Any, results: Any) -> list[Tensor]:
    """Results in memory of their own, no views of what was given."""
    given = {memory(x) for x in cuda_graph._tensors([args, list(kwargs.values())])}
    return [x for x in cuda_graph._tensors([results]) if memory(x) not in given]


def memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else id(x)


class Stub:
    """torch.cuda, as far as graphs need it.

    Attributes:
        main: The stream that threads begin on.
        captures: Graphs captured to the end.
        pools: Of each capture.
        ended: Pools that were ended by hand.
        breaks_at: An operation at which CUDA breaks a capture off.
        capturing: The stream of a capture that is under way.
    """

    def __init__(self) -> None:
        self.main = Stream()
        self.captures: list[Graph] = []
        self.pools: list[object] = []
        self.ended: list[object] = []
        self.breaks_at = ""
        self.capturing: Stream | None = None
        self._of_thread = threading.local()

    def current_stream(self) -> Stream:
        return getattr(self._of_thread, "stream", self.main)

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self._of_thread.stream = self.current_stream(), stream
        try:
            yield
        finally:
            self._of_thread.stream = before

    @contextlib.contextmanager
    def graph(self, graph: Graph, pool: object, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local" and stream is not self.main
        assert not self.capturing, "a process captures one graph at a time"
        self.pools.append(pool)
        before, self._of_thread.stream = self.current_stream(), stream
        self.capturing = stream
        try:
            with Recorder(self.breaks_at) as recorder:
                yield
        finally:
            self.capturing = None
            if recorder.is_broken:  # and the thread stays on the stream of the capture
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            self._of_thread.stream = before
        graph.end(recorder.operations)
        self.captures.append(graph)


def install(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Graphs on the CPU."""
    stub = Stub()
    monkeypatch.setattr(cuda_graph, "DEVICE_TYPE", "cpu")
    monkeypatch.setattr(cuda_graph, "WARM_UPS", 1)  # time
    for name, value in {
        "graph": stub.graph, "CUDAGraph": Graph, "stream": stub.stream, "Stream": Stream, "Event": Event,
        "current_stream": stub.current_stream, "graph_pool_handle": object, "device": contextlib.nullcontext,
        "is_current_stream_capturing": lambda: stub.capturing is stub.current_stream(),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(
        torch._C, "_cuda_endAllocateToPool", lambda device, pool: stub.ended.append(pool), raising=False
    )
    return stub
