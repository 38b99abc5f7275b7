"""Networks of the metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...losses.metric import MetricLoss
from .._lpips import LpipsModule
from .._metric import Metric
from .scores import ScoreMetric


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
