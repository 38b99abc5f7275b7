"""Calls within an operator as CUDA graphs: captured once for their shapes and settings, then replayed on other images.

A replay is one launch in place of hundreds, which on small images take the host longer than the GPU. A graph has static
input and output buffers, so images are copied in and results out.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Call = Callable[..., tuple[Tensor, ...]]

DEVICE_TYPE = "cuda"
MAX_GRAPHS = 4  # per trunk
WARM_UPS = 3  # as torch.cuda.make_graphed_callables
# A capture costs tens of replays. Once MAX_DROPPED graphs were evicted after fewer than MIN_REPLAYS replays on average,
# as when a weight changes in every call, nothing is captured any more.
MIN_REPLAYS, MAX_DROPPED = 10, 8

_capturing = threading.Lock()  # a process can capture one graph at a time
_broken: list[torch.cuda.CUDAGraph] = []


def may_capture(images: Tensor) -> bool:
    """Whether a call may be captured: not on a CPU, in another capture, in compiled code or under a dispatch mode."""
    if torch.compiler.is_compiling() or images.device.type != DEVICE_TYPE:
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active():  # no public way
        return False
    return not is_capturing(images.device)


def is_capturing(device: torch.device) -> bool:
    """Whether the current stream is being captured; compiled code does not ask."""
    if torch.compiler.is_compiling() or device.type != DEVICE_TYPE:
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


class CudaGraphs:
    """The graphs of one trunk on one device, for any number of threads and streams."""

    _shared = cached_property(lambda graphs: _Shared())

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._captured: OrderedDict[Hashable, _Captured] = OrderedDict()  # the least recently used first
        self._dropped, self._served, self._refuses = 0, 0, False

    def run(self, call: Call, *arguments: Any) -> tuple[Tensor, ...]:
        """call(*arguments), by a graph if it can be captured, else with one warning.

        Args:
            call: A function of a module; what it does depends on its arguments and on torch's settings alone. It
                leaves its lists as they are.
            arguments: Images (N, ...), and images or None; then tensors that nobody writes to, which are copied in
                where others come than the last time, lists of them, and what can be hashed.
        """
        with self._lock, torch.cuda.device(arguments[0].device):
            captured = None if self._refuses else self._found(call, arguments)
            if captured:
                return captured.replayed(arguments, self._shared)
        return call(*arguments)

    def _found(self, call: Call, arguments: Sequence[Any]) -> _Captured | None:
        key = (call, _settings_of_torch(), *map(_kind, arguments))
        found: _Captured | str | None = self._captured.pop(key, None)
        if found is None:
            self._drop_oldest()
            found = None if self._refuses else _capture(call, arguments, self._shared)
        if isinstance(found, _Captured):
            self._captured[key] = found  # most recently used
            return found
        if found:
            self._refuse(f"one that a capture ends at: {found}")
        return None

    def _drop_oldest(self) -> None:
        if len(self._captured) == MAX_GRAPHS:
            _, oldest = self._captured.popitem(last=False)
            self._dropped, self._served = self._dropped + 1, self._served + oldest.replays
            served = self._served + sum(captured.replays for captured in self._captured.values())
            if self._dropped >= MAX_DROPPED and served < MIN_REPLAYS * self._dropped:
                self._refuse(
                    f"other shapes or settings again and again: {self._dropped + MAX_GRAPHS} kinds, {served} calls"
                )

    def _refuse(self, what: str) -> None:
        self._refuses = True
        self._captured.clear()
        warnings.warn(
            f"cuda_graphs: expected calls that a CUDA graph can repeat, got {what}; this loss runs without graphs "
            "until it is moved or cuda_graphs is set again",
            RuntimeWarning,
            stacklevel=2,
        )


class _Shared:
    """What the graphs of a trunk share, since they are replayed one at a time.

    Attributes:
        pool: Their memory pool.
        warm_up, capture: Two streams, the second for captures alone: the workspace that cuBLAS has for it lies in the
            pool, and not where torch.compile frees it.
        done: Event after the results of the last replay were copied out.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.warm_up, self.capture = torch.cuda.Stream(), torch.cuda.Stream()
        self.done = torch.cuda.Event()


@dataclass
class _Captured:
    """A graph.

    Attributes:
        arguments: Its static inputs.
        results: Its static outputs.
        read: Other tensors that it reads and that must outlive it: weights, and what modules cache for a size.
        stream: The stream on which the static inputs were allocated.
        given: The tensors of which the static inputs are copies, by position.
    """

    graph: torch.cuda.CUDAGraph
    arguments: list[Any]
    results: tuple[Tensor, ...]
    read: list[Tensor]
    stream: torch.cuda.Stream
    given: dict[int, weakref.ref[Tensor]] = field(default_factory=dict)
    replays: int = 0

    def replayed(self, arguments: Sequence[Any], shared: _Shared) -> tuple[Tensor, ...]:
        """The results for other arguments of the same kind."""
        stream, images = torch.cuda.current_stream(), len(list(_tensors(arguments[:2])))
        stream.wait_event(shared.done)
        for i, (own, x) in enumerate(zip(_tensors(self.arguments), _tensors(arguments), strict=True)):
            if stream != self.stream:
                own.record_stream(stream)
            # An image may have been overwritten unseen, as by image.data.clamp_().
            if i < images or i not in self.given or self.given[i]() is not x:
                own.copy_(x, non_blocking=True)
                self.given[i] = weakref.ref(x)
        self.graph.replay()
        self.replays += 1
        results = tuple(result.clone() for result in self.results)
        shared.done.record(stream)
        return results


def _capture(call: Call, arguments: Sequence[Any], shared: _Shared) -> _Captured | str:
    """The graph of a call, or why there is none; raises what the call itself does."""
    here, device = torch.cuda.current_stream(), arguments[0].device
    with torch.inference_mode(False), torch.no_grad():
        own = _mapped(list(arguments), lambda x: torch.empty_like(x, device=device).copy_(x))
        shared.warm_up.wait_stream(here)
        with torch.cuda.stream(shared.warm_up):
            for _ in range(WARM_UPS):
                call(*own)
        here.wait_stream(shared.warm_up)
        graph, watch = torch.cuda.CUDAGraph(), _Watch()
        # Other threads may wait for the device meanwhile, as one that pins memory does.
        capture = torch.cuda.graph(graph, shared.pool, shared.capture, "thread_local")
        try:
            # A capture that CUDA aborts leaves the thread on its stream; `here` restores it.
            with _capturing, torch.cuda.stream(here), capture, watch:
                results = call(*own)
        except Exception as error:
            if error is not watch.failure:  # CUDA broke it off, and torch goes on asking the graph where to take memory
                _broken.append(graph)
                with contextlib.suppress(RuntimeError):  # had it not begun; there is no public way
                    torch._C._cuda_endAllocateToPool(device.index, shared.pool)
            return str(watch.failure or error).partition("\n")[0]
    return _Captured(graph, own, results, list(watch.read.values()), here)


class _Watch(TorchDispatchMode):
    """Refuses operations that would make CUDA abort a capture, while it can still be ended cleanly.

    Attributes:
        read: Tensors that the capture reads and did not make, by the address of their memory.
        failure: The error that ended it early.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[int, Tensor] = {}
        self.failure: BaseException | None = None
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors([args, list(kwargs.values())]))
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags):
            raise RuntimeError(f"{func}, whose result the host waits for")
        devices = {torch.device(x).type for x in [*(x.device for x in given), kwargs.get("device")] if x}
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default) and len(devices) > 1:
            raise RuntimeError(f"{func} between devices, which the host waits for")
        self.read |= {_address(x): x for x in given if _address(x) not in self._made}
        results = func(*args, **kwargs)
        self._made.update(map(_address, _tensors([results])))
        return results

    def __exit__(self, kind: Any, failure: Any, trace: Any) -> None:
        self.failure = failure
        super().__exit__(kind, failure, trace)


def _address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else id(x)


def _kind(value: Any) -> Hashable:
    """What of an argument is part of a graph's key."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return tuple(map(_kind, value)) if isinstance(value, list) else value


def _settings_of_torch() -> Hashable:
    """Settings of torch that change what a call does: part of a graph's key."""
    cuda, cudnn, products = torch.backends.cuda, torch.backends.cudnn, torch.backends.cuda.matmul
    return (
        cudnn.conv.fp32_precision, products.fp32_precision,  # type: ignore[attr-defined]  # not in their stubs
        products.allow_fp16_reduced_precision_reduction, products.allow_bf16_reduced_precision_reduction,
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled(),
        cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled(),
    )  # fmt: skip


def _mapped(value: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    """Arguments with their tensors replaced."""
    if isinstance(value, list):
        return [_mapped(x, replace) for x in value]
    return replace(value) if isinstance(value, Tensor) else value


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
