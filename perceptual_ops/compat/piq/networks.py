"""Networks and taps as piq understands them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from ... import _checks as checks
from ...networks import ARCHITECTURES, Conv, FeatureNetwork, Pooling, Relu, load_network
from ...networks.weights import WeightSource

Extractor = Literal["vgg16", "vgg19"]
NAMES: tuple[Extractor, ...] = get_args(Extractor)


@dataclass(frozen=True)
class Order:
    """The layers of a network, in the order they run.

    Attributes:
        names: All of them.
        in_place: Those that write over their input in piq.
        channels: Channels of each layer's output; None where only a run would tell.
    """

    names: tuple[str, ...]
    in_place: frozenset[str]
    channels: dict[str, int] | None

    def taps(self, layers: Collection[str], late: bool) -> list[str]:
        """The layers as piq takes them: in the network's order and, if `late`, as those behind them leave them."""
        unknown = [layer for layer in layers if layer not in self.names]
        if unknown:
            raise ValueError(f"layers: expected some of {', '.join(self.names)}; got {unknown[0]!r}")
        found = []
        for i in (i for i, name in enumerate(self.names) if name in layers):
            last = i
            while late and last + 1 < len(self.names) and self.names[last + 1] in self.in_place:
                last += 1
            found.append(self.names[last])
        return found


def order_of(feature_extractor: Extractor | nn.Module) -> Order:
    """The layers of "vgg16" or "vgg19", or the children of a module."""
    if isinstance(feature_extractor, nn.Module):
        children = feature_extractor._modules
        in_place = frozenset(name for name, child in children.items() if getattr(child, "inplace", False))
        return Order(tuple(children), in_place, None)
    checks.check_choice("feature_extractor", feature_extractor, NAMES)
    architecture = ARCHITECTURES[feature_extractor]
    channels: dict[str, int] = {}
    count = 0
    for layer in architecture:
        count = layer.out_channels if isinstance(layer, Conv) else count
        channels[layer.name] = count
    return Order(tuple(channels), frozenset(layer.name for layer in architecture if isinstance(layer, Relu)), channels)


def trunk_for(
    feature_extractor: Extractor | nn.Module,
    weights: WeightSource,
    taps: list[str],
    replace_pooling: Callable[[nn.Module], nn.Module] | None,
) -> FeatureNetwork | nn.Module:
    """The network as `PerceptualLoss` takes one.

    Args:
        feature_extractor: "vgg16", "vgg19" or a module, which stays as it is.
        weights: Of a network by name.
        taps: Layers wanted.
        replace_pooling: piq's method, which replaces the pooling of a module; None: nothing is replaced.
    """
    if isinstance(feature_extractor, str):
        pooling: Pooling | None = "average" if replace_pooling else None
        return load_network(feature_extractor, weights, layers=taps, pooling=pooling)
    # piq runs the children one after the other, whatever the module's own forward does.
    children = nn.Sequential()
    for name, child in copy.deepcopy(feature_extractor._modules).items():  # named_children leaves out a repeated one
        children.add_module(name, child)
    return replace_pooling(children) if replace_pooling else children


def check_channels(feature_extractor: Extractor | nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuses a mean or std for other channels than those of the convolution that a module of one's own begins with."""
    first: object = feature_extractor
    while isinstance(first, nn.Module) and (first is feature_extractor or type(first) is nn.Sequential):
        first = next(iter(first._modules.values()), None)
    if not isinstance(first, nn.Conv2d) or not first.in_channels:  # 0: that of a lazy one
        return
    channels = first.in_channels
    for numbers in (mean, std):
        if len(numbers) not in (1, channels):
            raise ValueError(
                f"mean, std: expected {channels} number{'s' * (channels > 1)} each, for the channels of the network's "
                f"first convolution, or one for all; got {len(numbers)}; pass mean={[0.0] * channels}, "
                f"std={[1.0] * channels} for images as they are"
            )
