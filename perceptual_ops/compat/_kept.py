"""Networks of functions, which would otherwise be made anew at every call."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._native import constant_when_compiled
from ..engine.modes import made_to_keep
from ..networks.checkpoint_files import CHECKPOINT_SUFFIXES
from ..networks.weights import WeightSource

MAX_TRACED = 8

Maker = Callable[[str, WeightSource], Any]  # the name of a network and its weights -> a module
Stamp = tuple[int, int] | None


def kept_network(make: Maker, name: str, weights: WeightSource, images: object) -> Any:
    """The network of a function beside its images, if they are tensors; kept unless its weights are a state dict.

    A file that was written anew is read anew, but by compiled code only when it is compiled again.
    """
    device = images.device if isinstance(images, Tensor) else torch.device("cpu")
    dtype = torch.float64 if isinstance(images, Tensor) and images.dtype == torch.float64 else torch.float32
    if not isinstance(weights, str | os.PathLike):
        return _made(make, name, weights, device, dtype)
    if torch.compiler.is_compiling():
        return _traced[_key_of_traced(make, name, os.fspath(weights), device, dtype)]
    return _kept(make, name, *_stamped(weights), device, dtype)


def _stamped(weights: str | os.PathLike[str]) -> tuple[str, Stamp]:
    """Weights by name as they are; a path made absolute, and the size and time of its file."""
    path = Path(weights).expanduser().absolute()
    if path.suffix not in CHECKPOINT_SUFFIXES or not path.is_file():
        return os.fspath(weights), None
    status = path.stat()
    return str(path), (status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _kept(make: Maker, name: str, weights: str, _: Stamp, device: torch.device, dtype: torch.dtype) -> Any:
    return _made(make, name, weights, device, dtype)


def _made(make: Maker, name: str, weights: WeightSource, device: torch.device, dtype: torch.dtype) -> Any:
    return made_to_keep(lambda: make(name, weights).to(device, dtype), device)


# The networks of compiled code: it takes a module from where a global names it, and a constant from a call.
_traced: dict[str, Any] = {}


@constant_when_compiled
def _key_of_traced(make: Maker, name: str, weights: str, device: torch.device, dtype: torch.dtype) -> str:
    path, stamp = _stamped(weights)
    key = f"{make.__module__}.{make.__qualname__} {name} {path} {stamp} {device} {dtype}"
    _traced[key] = _kept(make, name, path, stamp, device, dtype)
    if len(_traced) > MAX_TRACED:  # code that held the oldest is compiled again at its next call
        del _traced[next(iter(_traced))]
    return key
