"""Networks, layers and weights as users write them, and as the losses hold them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks as checks
from ..names import Architecture, PublishedName
from ..networks import (
    ARCHITECTURES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    FeatureNetwork,
    ModuleFeatures,
    checked_network,
    load_network,
)
from ..networks.checkpoint_files import check_finite
from ..networks.load import BLURRED_ARCHITECTURES
from ..networks.published import PUBLISHED
from ..networks.recognition import recognized
from ..networks.weights import WeightSource

LayerWeights = Mapping[str, float] | Sequence[str]

NETWORK_NAMES: tuple[Architecture | PublishedName, ...] = (*ARCHITECTURES, *PUBLISHED)

# A layer of each of the first four blocks: for VGG16 those of Johnson et al. 2016, for others what corresponds to them.
# The third is the content layer of a loss that is not told another.
DEFAULT_LAYERS: dict[str, tuple[str, ...]] = {
    "vgg11": ("relu1_1", "relu2_1", "relu3_2", "relu4_2"),
    "vgg13": ("relu1_2", "relu2_2", "relu3_2", "relu4_2"),
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
    "vgg19": ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
    "alexnet": ("relu1", "relu2", "relu3", "relu4"),
    "squeezenet1_1": ("relu1", "fire3", "fire5", "fire8"),
}


def checked_layers(name: str, layers: LayerWeights | None) -> dict[str, float]:
    """Layer -> its weight."""
    if layers is None:
        return {}
    if isinstance(layers, str) or not isinstance(layers, (Mapping, Sequence)):
        raise TypeError(
            f"{name}: expected a dict of layer names and weights, such as {{'relu3_3': 1.0}}; got {layers!r}"
        )
    weights = layers if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
    for layer in weights:
        if not isinstance(layer, str):
            raise TypeError(f"{name}: expected names of layers, got {layer!r}")
    return {layer: checks.check_number(f"{name}[{layer!r}]", number) for layer, number in weights.items()}


def wanted_layers(part: str, layers: LayerWeights | None, weight: object) -> dict[str, float]:
    """Layer -> its weight; empty where the part has none."""
    factor = checks.check_number(f"{part}_weight", weight)
    return checked_layers(f"{part}_layers", layers) if factor else {}


def content_or_default(layers: LayerWeights | str | None, network: object) -> LayerWeights | None:
    """The content layers as given; for "default" that of the network."""
    if not isinstance(layers, str) or layers != "default":
        return layers
    if isinstance(network, str):
        name = checked_network("network", network, NETWORK_NAMES)
        return (PUBLISHED[name].layer if name in PUBLISHED else DEFAULT_LAYERS[name][2],)
    if isinstance(network, FeatureNetwork) and network.name in DEFAULT_LAYERS:
        return (DEFAULT_LAYERS[network.name][2],)
    _refuse_no_network(network)
    raise ValueError(
        "content_layers: expected names of layers for a network of your own, got 'default', which networks by "
        "name alone have; name some, or pass None for no content part"
    )


def part_layers(part: str, changed: Callable[[Any], None]) -> Any:
    """The layers of "content" or "style" as a property: given as to the constructor, read as their names.

    Args:
        part: The loss keeps the layers and the weight of each as `_<part>_layers`.
        changed: Called with the loss when others replaced them.
    """
    name, kept = f"{part}_layers", f"_{part}_layers"

    def set_layers(loss: nn.Module, layers: LayerWeights | None) -> None:
        found, is_first = checked_layers(name, layers), kept not in loss.__dict__
        if not is_first:
            _check_built(name, loss._network, found, ", or make another loss with it")
        object.__setattr__(loss, kept, found)
        if not is_first:
            changed(loss)

    return property(lambda loss: tuple(getattr(loss, kept)), set_layers, doc=f"Names of the {part} layers.")


def _check_built(name: str, network: Any, layers: Iterable[str], remedy: str = "") -> None:
    """Refuses layers that a network, which is no deeper than it had to be, does not have."""
    names = list(layers)
    try:
        if names:
            network.check_layers(names)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix('layers: ')}{remedy}") from None


def part_weight(part: str) -> Any:
    """The weight of a part as a property; one of a part that the loss was made without is refused."""
    name, kept, layers = f"{part}_weight", f"_{part}_weight", f"_{part}_layers"

    def set_weight(loss: nn.Module, value: object) -> None:
        weight = checks.check_number(name, value)
        if weight and kept in loss.__dict__ and not getattr(loss, layers):
            raise ValueError(
                f"{name}: expected 0, since this loss has no {part} part; got {value!r}; give {part}_layers and {name} "
                "when it is made"
            )
        object.__setattr__(loss, kept, weight)

    return property(lambda loss: getattr(loss, kept), set_weight, doc=f"Weight of the {part} part.")


def part_weights(part: str) -> Any:
    """The weights of a part's layers as a property, each times the weight of the part; given, they hold as they are."""
    layers, kept, factor = f"{part}_layers", f"_{part}_layers", f"{part}_weight"

    def weights(loss: nn.Module) -> tuple[float, ...]:
        return tuple(getattr(loss, factor) * number for number in getattr(loss, kept).values())

    def set_weights(loss: nn.Module, values: Sequence[float]) -> None:
        names, argument = getattr(loss, layers), f"{part}_weights"
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != len(names):
            raise ValueError(f"{argument}: expected a list of {len(names)} numbers, one per layer; got {values!r}")
        numbers = [checks.check_number(argument, value) for value in values]
        object.__setattr__(loss, kept, dict(zip(names, numbers, strict=True)))
        setattr(loss, factor, 1.0)

    return property(weights, set_weights, doc=f"Weights of the {part} layers.")


def checked_size(name: str, size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """A size in pixels: one side for squares, or (height, width)."""
    sides = (size, size) if isinstance(size, int) else size
    if sides is None:
        return None
    if isinstance(sides, str) or not isinstance(sides, Sequence) or len(sides) != 2:
        raise ValueError(f"{name}: expected None, a number of pixels or two (height, width), got {size!r}")
    height, width = (checks.check_whole(name, side, 1) for side in sides)
    return height, width


def normalized_shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is not None and (isinstance(weights, str) or not isinstance(weights, Sequence)):
        raise TypeError(f"weights: expected a list of {count} numbers, got {weights!r}")
    shares = [1.0] * count if weights is None else [checks.check_number("weights", weight) for weight in weights]
    if len(shares) != count or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"weights: expected {count} numbers, none negative and one above 0; got {weights!r}")
    return [share / sum(shares) for share in shares]


@torch.inference_mode(False)  # or the network could not serve in training later
def network_of(
    network: str | nn.Module, weights: WeightSource, layers: Mapping[str, Iterable[str]], drop_tokens: int = 0
) -> FeatureNetwork | ModuleFeatures:
    """A network of the loss's own, no deeper than the layers ask, which come by the argument that names them."""
    if drop_tokens and isinstance(network, (str, FeatureNetwork)) and network not in PUBLISHED:
        raise ValueError(f"drop_tokens: expected 0 for a network whose features are maps, got {drop_tokens!r}")
    taps = list(dict.fromkeys(layer for names in layers.values() for layer in names))
    if isinstance(network, str):
        name: Any = checked_network("network", network, NETWORK_NAMES)
        if name in PUBLISHED:
            return _published(name, weights, taps, drop_tokens)
        known = dict.fromkeys(layer.name for form in (ARCHITECTURES, BLURRED_ARCHITECTURES) for layer in form[name])
        for argument, names in layers.items():
            for layer in names:
                if layer not in known:
                    raise ValueError(f"{argument}: expected layers of {name} ({', '.join(known)}), got {layer!r}")
        return load_network(name, weights, layers=taps)
    _refuse_no_network(network)
    if weights != "imagenet":
        raise ValueError("weights: expected none beside a network that is a module, which has its own")
    _check_module(network)
    if isinstance(network, FeatureNetwork):
        for argument, names in layers.items():
            _check_built(argument, network, names)
        return copy.deepcopy(network)
    chain = None if drop_tokens else recognized(network, taps)
    return chain or ModuleFeatures(network, taps, drop_tokens)


def _published(name: PublishedName, weights: WeightSource, layers: list[str], drop_tokens: int) -> ModuleFeatures:
    trunk = ModuleFeatures(PUBLISHED[name].build(weights), layers, drop_tokens)
    trunk.mean, trunk.std, trunk.is_image_network = IMAGENET_MEAN, IMAGENET_STD, True
    return trunk


def _refuse_no_network(network: object) -> None:
    if not isinstance(network, nn.Module):
        raise TypeError(f"network: expected a name or a torch.nn.Module, got {type(network).__name__}")


def _check_module(network: nn.Module) -> None:
    """Refuses parameters with NaN or infinity, and buffers with NaN; a mask's infinities are meant."""
    weights = {name: weight for name, weight in network.named_parameters() if _is_plain(weight)}
    buffers = {name: buffer[~buffer.isinf()] for name, buffer in network.named_buffers() if _is_plain(buffer)}
    check_finite({**weights, **buffers}, f"the network {type(network).__name__}")


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has numbers to look at: no meta tensor, and none of a quantised class, which may not add up."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.dtype in checks.DTYPES and not tensor.is_meta
