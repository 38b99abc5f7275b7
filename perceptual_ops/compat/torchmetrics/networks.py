"""Networks of the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...losses.metric import MetricLoss
from .._lpips import LpipsModule
from .._metric import Metric
from .scores import ScoreMetric


class NetworkMetric(ScoreMetric):
    """A metric over a network, `net`, which FeatureShare replaces by one that remembers its results."""

    if TYPE_CHECKING:  # as in ScoreMetric
        net: Any
        __jit_ignored_attributes__: tuple[str, ...]
        _network_type: type[nn.Module]

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
        if name == "net" and _bare(value) is not value:
            _refuse_unlike(loss_of(self.net), loss_of(value))
        super().__setattr__(name, value)

    def _is_double(self) -> bool:
        return loss_of(self.net).network_dtype() == torch.float64


def _refuse_unlike(own: MetricLoss, shared: MetricLoss) -> None:
    """Raises for a network that would give a metric other numbers than its own."""
    mine, theirs = (loss.identity() for loss in (own, shared)) if own is not shared else ({}, {})
    for part, found in mine.items():
        if found != theirs[part]:
            raise ValueError(
                f"net: expected a network of the {part} that this metric's own has, got one of other {part}; only "
                "metrics whose networks are the same can share theirs"
            )


def _bare(net: Any) -> Any:
    """A network without FeatureShare's memory around it."""
    return net if isinstance(net, MetricLoss | LpipsModule) else getattr(net, "network", net)


def loss_of(net: Any) -> MetricLoss:
    """The loss that a network is or holds, by which images are checked."""
    net = _bare(net)
    return net._loss if isinstance(net, LpipsModule) else net
