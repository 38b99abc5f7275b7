"""Networks, layers and weights as users write them, as the losses hold them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .. import _checks as checks
from ..networks import FeatureNetwork, ModuleFeatures, load_network
from ..networks.checkpoint_files import check_finite
from ..networks.weights import WeightSource

LayerWeights = Mapping[str, float] | Sequence[str]


def scaled_layers(name: str, layers: LayerWeights | None, weight_name: str, weight: object) -> dict[str, float]:
    """Layer -> its weight times the weight of its part; empty where the part is not wanted."""
    factor = checks.check_number(weight_name, weight)
    if layers is None or not factor:
        return {}
    if isinstance(layers, str) or not isinstance(layers, (Mapping, Sequence)):
        raise TypeError(
            f"{name}: expected a dict of layer names and weights, such as {{'relu3_3': 1.0}}; got {layers!r}"
        )
    weights = layers if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
    return {layer: factor * checks.check_number(f"{name}[{layer!r}]", number) for layer, number in weights.items()}


def normalized_shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is not None and (isinstance(weights, str) or not isinstance(weights, Sequence)):
        raise TypeError(f"weights: expected a list of {count} numbers, got {weights!r}")
    shares = [1.0] * count if weights is None else [checks.check_number("weights", weight) for weight in weights]
    if len(shares) != count or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"weights: expected {count} numbers, none negative and one above 0; got {weights!r}")
    return [share / sum(shares) for share in shares]


def trunk_of(network: str | nn.Module, weights: WeightSource, layers: list[str]) -> FeatureNetwork | ModuleFeatures:
    """A network of the loss's own, no deeper than the layers ask."""
    if isinstance(network, str):
        with torch.inference_mode(False):  # or it could not serve in training later
            return load_network(network, weights, layers=layers)
    if weights != "imagenet":
        raise ValueError("weights: expected none beside a network that is a module, which has its own")
    if isinstance(network, nn.Module):
        _check_module(network)
    if isinstance(network, nn.Module):
        _check_module(network)
    if isinstance(network, FeatureNetwork):
        network.smallest_size(layers)  # raises for layers that the network does not have
        return copy.deepcopy(network)
    if isinstance(network, nn.Module):
        return ModuleFeatures(network, layers)
    raise TypeError(f"network: expected a name or a torch.nn.Module, got {type(network).__name__}")


def _check_module(network: nn.Module) -> None:
    """Refuses parameters with NaN or infinity, and buffers with NaN; a mask's infinities are meant."""
    weights = {name: weight for name, weight in network.named_parameters() if _is_plain(weight)}
    buffers = {name: buffer[~buffer.isinf()] for name, buffer in network.named_buffers() if _is_plain(buffer)}
    check_finite({**weights, **buffers}, f"the network {type(network).__name__}")


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has numbers to look at: no meta tensor, and none of a quantised class, which may not add up."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.dtype in checks.DTYPES and not tensor.is_meta
