"""Networks of functions, which would otherwise be made anew at every call."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..networks.weights import WeightSource

Maker = Callable[[str, WeightSource], Any]  # the name of a network and its weights -> a module


def kept_network(make: Maker, name: str, weights: WeightSource, images: object) -> Any:
    """The network of a function beside its images, if they are tensors; kept unless its weights are a state dict."""
    device = images.device if isinstance(images, Tensor) else torch.device("cpu")
    dtype = torch.float64 if isinstance(images, Tensor) and images.dtype == torch.float64 else torch.float32
    if not isinstance(weights, str):
        return make(name, weights).to(device, dtype)
    if torch.compiler.is_compiling():
        return _traced[_key_of_traced(make, name, weights, device, dtype)]
    return _kept(make, name, weights, device, dtype)


@lru_cache(maxsize=4)
def _kept(make: Maker, name: str, weights: str, device: torch.device, dtype: torch.dtype) -> Any:
    return make(name, weights).to(device, dtype)


# The networks of compiled code: it takes a module from where a global names it, and a constant from a call.
_traced: dict[str, Any] = {}


@torch.compiler.assume_constant_result
def _key_of_traced(make: Maker, name: str, weights: str, device: torch.device, dtype: torch.dtype) -> str:
    key = f"{make.__module__}.{make.__qualname__} {name} {weights} {device} {dtype}"
    _traced[key] = _kept(make, name, weights, device, dtype)
    return key
