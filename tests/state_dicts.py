"""State dicts of other libraries, and what loading them says when it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from torch import Tensor

from perceptual_ops.networks import FeatureNetwork, load_network

State = dict[str, Tensor]

LAYERS = ["relu3_3"]  # of VGG16, what most tests load

# Where the convolutions sit: in torchvision and lpips, and in stlpips, which counts a pooling as maximum and as blur.
TORCHVISION = {
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "alexnet": (0, 3, 6, 8, 10),
    "squeezenet1_1": (
        0, *(f"{n}.{part}" for n in (3, 4, 6, 7, 9, 10, 11, 12) for part in ("squeeze", "expand1x1", "expand3x3"))
    ),
}  # fmt: skip
STLPIPS = {"vgg16": (0, 2, 6, 8, 12, 14, 16, 20, 22, 24, 28, 30, 32), "alexnet": (0, 5, 9, 11, 13)}
SLICES = {
    "vgg16": (1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5),
    "alexnet": (1, 2, 3, 4, 5),
    "squeezenet1_1": (1, *(number for number in (2, 2, 3, 3, 4, 5, 6, 7) for _ in range(3))),
}
LAYOUTS = [(network, layout) for network in TORCHVISION for layout in ("torchvision", "its features", "lpips")]
LAYOUTS += [(network, "stlpips") for network in STLPIPS]


def random_state(network: str) -> State:
    """All of a network under this library's keys."""
    return dict(load_network(network, "random", seed=7).state_dict())


def _keys(network: str, layout: str) -> Iterator[str]:
    if layout == "torchvision":
        yield from (f"features.{place}" for place in TORCHVISION[network])
    elif layout == "its features":
        yield from (f"{place}" for place in TORCHVISION[network])
    else:
        places = STLPIPS if layout == "stlpips" else TORCHVISION
        pairs = zip(SLICES[network], places[network], strict=True)
        yield from (f"net.slice{number}.{place}" for number, place in pairs)


def renamed(own: State, network: str, layout: str) -> State:
    """The state dict of a network in another layout."""
    tensors = iter(own.values())
    return {f"{key}.{part}": next(tensors) for key in _keys(network, layout) for part in ("weight", "bias")}


def assert_loaded(network: FeatureNetwork, expected: Mapping[str, Tensor]) -> None:
    for key, value in network.state_dict().items():
        assert value.equal(expected[key]), key


def failure(error: type[Exception], weights: object, network: str = "vgg16") -> str:
    """What loading says when it fails: one line."""
    with pytest.raises(error) as caught:
        load_network(network, weights, layers=LAYERS if network == "vgg16" else None)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message
