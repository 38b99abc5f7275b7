"""Loading a network by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, overload

from ..names import Architecture, ChainName, LpipsTrunk, Pooling
from .alexnet import ALEXNET, BLURRED_ALEXNET
from .feature_network import IMAGENET_MEAN, IMAGENET_STD, FeatureNetwork
from .layers import Layer, convolutions_of
from .squeezenet import SQUEEZENET
from .state_dicts import convolution_weights
from .vgg import VGG
from .weights import WeightSource, random_weights, read_weights

ARCHITECTURES: dict[Architecture, tuple[Layer, ...]] = {**VGG, "alexnet": ALEXNET, "squeezenet1_1": SQUEEZENET}
# Those of pooling "blur", where it changes more than the poolings.
BLURRED_ARCHITECTURES: dict[Architecture, tuple[Layer, ...]] = {**ARCHITECTURES, "alexnet": BLURRED_ALEXNET}
# What others call some of them, lpips above all.
ALIASES: Mapping[str, LpipsTrunk] = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}

Name = TypeVar("Name", bound=str)


def full_name(name: str) -> str:
    """The name of a network in `ARCHITECTURES`, of one of its names; others as they are."""
    return ALIASES.get(name, name)


@overload
def checked_network(argument: str, name: object) -> Architecture: ...


@overload
def checked_network(argument: str, name: object, known: Iterable[Name]) -> Name: ...


def checked_network(argument: str, name: object, known: Iterable[str] = ARCHITECTURES) -> str:
    """The full name of a network that is among those known; ValueError for another."""
    names = tuple(known)
    if not isinstance(name, str) or full_name(name) not in names:
        short = ", ".join(f"{alias!r} for {full}" for alias, full in ALIASES.items() if full in names)
        raise ValueError(f"{argument}: expected one of {', '.join(map(repr, names))}, or {short}; got {name!r}")
    return full_name(name)


def load_network(
    name: ChainName,
    weights: WeightSource = "imagenet",
    *,
    layers: Iterable[str] | None = None,
    pooling: Pooling | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    progress: bool = True,
) -> FeatureNetwork:
    """A frozen network: images (N, 3, H, W) in [0, 1] -> dict of features by layer name.

    Args:
        name: "vgg11", "vgg13", "vgg16" or "vgg", "vgg19", "alexnet" or "alex", "squeezenet1_1" or "squeeze".
        weights: "imagenet": torchvision's file, from the torch hub cache, else downloaded; checked against the hash in
            its name once a process (half a second for the 553 MB of VGG16); "stlpips": the blur-pool VGG16 or AlexNet
            of the installed package stlpips-pytorch; "random"; the path of a .pth, .pt or .safetensors file; or a state
            dict (layouts: `convolution_weights`).
        layers: the layers wanted, such as ["relu1_2", "relu3_3"]; those beyond the deepest are not built. Default: all.
        pooling: "max", "average", "blur" or "l2"; default: what the weights were trained with, "blur" for "stlpips" and
            "max" for all others. With "blur", the first convolution of AlexNet has stride 1 and a blur of its own.
        mean, std: normalisation of each channel; the default is ImageNet's.
        seed: seed of the "random" weights; the global random numbers are not touched.
        progress: whether a download draws a progress bar on stderr.

    Raises:
        ValueError: unknown network, layer, pooling or source; weights that are damaged, not finite, or of another
            network.
        OSError, ModuleNotFoundError: weights that cannot be had; the message says what to put where.
    """
    full = checked_network("name", name)
    if pooling is None:
        pooling = "blur" if weights == "stlpips" else "max"
    plain, blurred = ARCHITECTURES[full], BLURRED_ARCHITECTURES[full]
    architecture = blurred if pooling == "blur" else plain
    taps = [layer.name for layer in architecture] if layers is None else layers
    network = FeatureNetwork(full, architecture, taps, pooling, mean, std)

    convolutions = convolutions_of(network.layers)
    if weights == "random":
        network.load_state_dict(random_weights(convolutions, seed))
    else:
        state, origin = read_weights(weights, full, progress)
        network.load_state_dict(convolution_weights(state, full, (plain, blurred), convolutions, origin))
    return network
