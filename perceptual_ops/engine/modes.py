"""Dispatch modes: what operators switch off or on again, and how cached tensors are made outside the caller's modes."""

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
def no_autograd(images: Tensor) -> Iterator[None]:
    """No autograd graph and no autocast."""
    with torch.no_grad(), autocast(images.device.type):
        yield


@contextlib.contextmanager
def under_autograd() -> Iterator[None]:
    """Records an autograd graph within an operator, which torch runs below autograd: for modules that run by autograd.

    It re-enables the dispatch keys that torch excludes within operators; there is no public way.
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
    """Activation checkpointing's hooks would recompute the caller's whole region for each chunk's backward."""
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
    """Calls `make` outside the caller's modes; its tensors on the device are ready on every stream.

    Fake tensors, tracing, functorch transforms, inference mode, autocast and a CUDA graph's memory pool are
    thread-local, so `make` runs in another thread.

    Raises:
        RuntimeError: A CUDA graph is being captured.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_on_stream(make, device) if device.type == "cuda" else make).result()


def _on_stream(make: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """Runs it on the current stream and synchronizes once, so that no other stream has to wait."""
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
