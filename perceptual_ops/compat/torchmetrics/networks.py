"""Networks of the metrics and of the functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ...losses.metric import MetricLoss
from ...networks.weights import WeightSource
from .._lpips import LpipsModule
from .._metric import Metric
from .scores import ScoreMetric

# Makes the network of a function, by its name and the source of its weights.
Maker = Callable[[str, WeightSource], Any]


class NetworkMetric(ScoreMetric):
    """A metric over a network, `net`, which FeatureShare replaces by one that remembers its results."""

    feature_network = "net"
    __jit_ignored_attributes__ = (*getattr(Metric, "__jit_ignored_attributes__", ()), "net")
    _network_type = nn.Module
    _scored = "image pairs"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "net" and not isinstance(_bare(value), self._network_type):
            raise TypeError(
                f"net: expected a network of {type(self).__name__}, got {type(_bare(value)).__name__}; only metrics of "
                "one kind can share theirs"
            )
        super().__setattr__(name, value)

    def _is_double(self) -> bool:
        return loss_of(self.net)._trunk_dtype() == torch.float64


def _bare(net: Any) -> Any:
    """A network without FeatureShare's memory around it."""
    return net if isinstance(net, MetricLoss | LpipsModule) else getattr(net, "network", net)


def loss_of(net: Any) -> MetricLoss:
    """The loss that a network is or holds, by which images are checked."""
    net = _bare(net)
    return net._loss if isinstance(net, LpipsModule) else net


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
    key = f"{name} {weights} {device} {dtype}"
    _traced[key] = _kept(make, name, weights, device, dtype)
    return key
