"""Converts state dicts of other libraries to this one's keys: `conv1_1.weight`, `conv1_1.bias`, ..."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .checkpoint_files import check_finite
from .layers import Conv, Layer, Pool, convolutions_of

# features.N of a whole torchvision model, N of its feature part alone, net.sliceK.N of lpips and stlpips, stageK.N of
# DISTS-pytorch; the convolutions of a module within its number.
_NUMBERED = re.compile(r"(features\.|net\.slice\d+\.|stage\d+\.|)(\d+(?:\.[a-z]\w*)?)\.weight")


def convolution_weights(
    state: Mapping[str, object],
    network: str,
    forms: tuple[Sequence[Layer], Sequence[Layer]],
    needed: Iterable[Conv],
    origin: str,
) -> dict[str, Tensor]:
    """The weights and biases of the convolutions needed, checked, under this library's keys.

    Args:
        state: `features.N.*` (torchvision's whole model; other keys are ignored), `N.*` (its feature part),
            `net.sliceK.N.*` (lpips, stlpips), `stageK.N.*` (DISTS-pytorch), or this library's `conv1_1.*`. More
            convolutions than needed are fine.
        network: name of the network, for errors.
        forms: all the layers of the network, as torchvision has them and as pooling "blur" does. Their convolutions
            are the same: weights in the order of either serve both.
        needed: the convolutions to find.
        origin: what errors call the state dict, such as its path.

    Returns:
        For each convolution `<name>.weight` (out, in, k, k) and `<name>.bias` (out,), in fp32.

    Raises:
        ValueError: no key in a known layout, a convolution where the network has none, a tensor that is missing,
            misshapen or not finite in fp32.
    """
    prefixes = _named_prefixes(state, network, forms[0], origin)
    if not prefixes:
        prefixes = _numbered_prefixes(state, network, forms, origin)
    weights = {}
    for conv in needed:
        shapes = {
            "weight": (conv.out_channels, conv.in_channels, conv.kernel, conv.kernel),
            "bias": (conv.out_channels,),
        }
        for part, shape in shapes.items():
            key = f"{prefixes[conv.name]}.{part}"
            what = f"{key!r} ({conv.name} of {network})"
            weights[f"{conv.name}.{part}"] = _checked(state.get(key), shape, what, origin)
    return weights


def _named_prefixes(
    state: Mapping[str, object], network: str, architecture: Sequence[Layer], origin: str
) -> dict[str, str]:
    """This library's own layout: each convolution's key is its name; empty if the state dict is of another layout."""
    names = [conv.name for conv in convolutions_of(architecture)]
    if not any(f"{name}.weight" in state for name in names):
        return {}
    foreign = [key for key in state if _is_filter(state, key) and key.removesuffix(".weight") not in names]
    if foreign:
        own = ", ".join(names)
        raise ValueError(f"{origin}: expected weights of {network}, whose convolutions are {own}; got {foreign[0]!r}")
    return {name: name for name in names}


def _numbered_prefixes(
    state: Mapping[str, object], network: str, forms: tuple[Sequence[Layer], Sequence[Layer]], origin: str
) -> dict[str, str]:
    """Layouts that number the layers: the key prefix of each convolution, such as `features.10`."""
    matches = [match for key in state if (match := _NUMBERED.fullmatch(str(key)))]
    if not matches:
        known = "features.0.weight, 0.weight, net.slice1.0.weight or conv1_1.weight"
        came = ", ".join(str(key) for key in list(state)[:3]) or "an empty one"
        raise ValueError(f"{origin}: expected keys such as {known}, got {came}")
    prefixes = {match[2]: f"{match[1]}{match[2]}" for match in matches}
    # lpips numbers its layers as torchvision does; stlpips counts a pooling twice, as maximum and as blur.
    candidates = (_places(forms[0], per_pool=1), _places(forms[1], per_pool=2))
    places = max(candidates, key=lambda candidate: len(candidate.keys() & prefixes.keys()))
    last = max(map(_number, places))
    for place, prefix in prefixes.items():
        # Another depth or a batch-norm variant fits for its first layers and would silently give other features.
        if place not in places and _number(place) < last and _is_filter(state, f"{prefix}.weight"):
            raise ValueError(
                f"{origin}: expected weights of {network}, whose convolutions are numbered {', '.join(places)}; "
                f"got '{prefix}.weight'"
            )
    absent = re.sub(r"(slice|stage)\d+", r"\1*", matches[0][1])
    return {name: prefixes.get(place, f"{absent}{place}") for place, name in places.items()}


def _places(layers: Sequence[Layer], per_pool: int) -> dict[str, str]:
    """The names of the convolutions by their place, `10` or `3.squeeze`; a maximum takes `per_pool` numbers."""
    places = {}
    number = 0
    for layer in layers:
        for conv in convolutions_of([layer]):
            places[f"{number}{conv.name.removeprefix(layer.name)}"] = conv.name
        number += per_pool if isinstance(layer, Pool) and layer.kernel > 1 else 1
    return places


def _number(place: str) -> int:
    return int(place.partition(".")[0])


def _is_filter(state: Mapping[str, object], key: str) -> bool:
    value = state[key]
    return isinstance(value, Tensor) and value.dim() == 4 and str(key).endswith(".weight")


def _checked(value: object, shape: tuple[int, ...], what: str, origin: str) -> Tensor:
    if value is None:
        raise ValueError(f"{origin}: expected {what}, got no such key")
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} in {origin}: expected a tensor, got {type(value).__name__}")
    if tuple(value.shape) != shape or not value.is_floating_point():
        raise ValueError(
            f"{what} in {origin}: expected a float tensor of shape {shape}, got {value.dtype} {tuple(value.shape)}"
        )
    weight = value.to(torch.float32)
    check_finite({what: weight}, origin)
    return weight
