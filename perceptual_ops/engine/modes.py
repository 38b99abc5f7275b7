"""What is switched off, or on again, within an operator, and for what is made to be kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from .._autocast import autocast

T = TypeVar("T")


@contextlib.contextmanager
def by_hand(images: Tensor) -> Iterator[None]:
    """No graph, and every dtype as it is asked for."""
    with torch.no_grad(), autocast(images.device.type):
        yield


@contextlib.contextmanager
def under_autograd() -> Iterator[None]:
    """A graph is recorded within an operator, which torch runs below autograd: for modules that are not run by hand.

    The keys that torch left out for the operator are let in again; there is no public way.
    """
    keys = torch._C.DispatchKey
    with (
        _without_saved_tensors_hooks(),
        torch.inference_mode(False),
        torch._C._SetExcludeDispatchKeyGuard(keys.AutogradFunctionality, False),
        torch._C._SetExcludeDispatchKeyGuard(keys.ADInplaceOrView, False),
        torch.enable_grad(),
    ):
        yield


@contextlib.contextmanager
def _without_saved_tensors_hooks() -> Iterator[None]:
    """Those of activation checkpointing would run the caller's whole region again for each chunk's backward."""
    autograd, hooks = torch._C._autograd, []
    if not hasattr(autograd, "_top_saved_tensors_default_hooks"):  # torch 2.4: others lie on top of them
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
            yield
        return
    while pair := autograd._top_saved_tensors_default_hooks(True):
        hooks.append(pair)
        autograd._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pair in reversed(hooks):
            autograd._push_saved_tensors_default_hooks(*pair)


def made_to_keep(make: Callable[[], T], device: torch.device) -> T:
    """What `make` makes on a device, in no mode of the caller's and ready for every stream.

    The fake tensors of a compiler, the record of a tracer, transforms, inference mode, autocast and the memory of a
    CUDA graph are a thread's own: it is made in another.

    Raises:
        RuntimeError: A CUDA graph is being captured.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_on_stream(make, device) if device.type == "cuda" else make).result()


def _on_stream(make: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """The same on the current stream, for which the host waits, once, so that no other stream has to."""
    stream = torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "CUDA graph: expected a capture of what has run before, got the first call of a network on this device "
                "in this dtype, which prepares the weights; make one call before the capture"
            )

    def made() -> T:
        with torch.cuda.stream(stream):
            result = make()
        stream.synchronize()
        return result

    return made
