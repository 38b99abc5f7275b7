"""What is switched off, or on again, within an operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


@contextlib.contextmanager
def by_hand(images: Tensor) -> Iterator[None]:
    """No graph, and every dtype as it is asked for."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
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
    while pair := autograd._top_saved_tensors_default_hooks(True):
        hooks.append(pair)
        autograd._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pair in reversed(hooks):
            autograd._push_saved_tensors_default_hooks(*pair)
