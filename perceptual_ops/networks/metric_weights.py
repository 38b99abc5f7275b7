"""Learned channel weights of LPIPS and DISTS.

The published ones lie in data/, unchanged, with their licences.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from .. import _checks as checks
from ..names import LpipsVersion
from .checkpoint_files import OTHER_FILE, check_finite, checked_path, read_checkpoint
from .weights import WeightSource, read_weights

LinearSource = bool | str | os.PathLike[str] | Mapping[str, Tensor] | Sequence[Tensor]
DistsSource = str | os.PathLike[str] | Mapping[str, Tensor] | None

# Published for LPIPS (Zhang et al. 2018, arXiv 1801.03924), by the names of its package; BSD-2-Clause.
LPIPS_NETWORKS = {"alexnet": "alex", "vgg16": "vgg", "squeezenet1_1": "squeeze"}
LPIPS_VERSIONS: tuple[LpipsVersion, ...] = get_args(LpipsVersion)

# Of the layers that DISTS (Ding et al. 2020, arXiv 2004.07728) compares: the image and five ReLUs of VGG16; MIT.
DISTS_CHANNELS = (3, 64, 128, 256, 512, 512)

_DATA = Path(__file__).parent / "data"
_REINSTALL = "reinstall perceptual_ops"

# lin0.model.1.weight of lpips and stlpips (model.0 without dropout), also as lins.0., within a module, or plain.
_LINEAR = re.compile(r"(?:.*\.)?lin(?:s\.)?(\d+)\.(?:model\.[01]\.)?weight")


@torch.inference_mode(False)  # what is made in that mode could not serve in training later
def linear_weights(
    linear: LinearSource,
    network: str,
    version: str,
    weights: WeightSource,
    channels: Sequence[int],
    origin: str = "what was passed as linear",
) -> list[Tensor]:
    """The weights of LPIPS's layers by channel, L x (C,) fp32 on the CPU.

    Args:
        linear: True: those that belong to the trunk's weights, stlpips's own to "stlpips" and LPIPS's official ones to
            all others; False: ones, LPIPS's unweighted baseline; the path of a .pth, .pt or .safetensors file; a state
            dict with the keys of lpips, stlpips or torchmetrics, or `lin0.weight`, ...; or, as piq keeps them, a list
            of tensors. Each is (1, C, 1, 1) or (C,).
        network: name of the trunk.
        version: "0.1" or "0.0", of the official ones.
        weights: the trunk's weights, see `load_network`.
        channels: of each layer.
        origin: what errors call a state dict or list of tensors.

    Raises:
        TypeError: linear of another type.
        ValueError: unknown version, a network without official weights, a file or state dict that lacks layers or has
            others, or other numbers of channels.
        FileNotFoundError, ModuleNotFoundError: weights that are not there; the message says what to put where.
    """
    checks.check_choice("version", version, LPIPS_VERSIONS)
    if linear is False:
        return [torch.ones(count, dtype=torch.float32, device="cpu") for count in channels]
    if linear is True:
        held, origin = _official(network, version, weights)
    elif isinstance(linear, str | os.PathLike):
        path = checked_path("linear", linear, "True, False")
        held, origin = read_checkpoint(path, OTHER_FILE), str(path)
    else:
        held = linear
    layers = _layers(held, origin)
    for index in range(len(channels)):
        if index not in layers:
            key = f"lin{index}.model.1.weight"
            raise ValueError(f"{origin}: expected linear weights of layer {index}, such as {key!r}, got none")
    if len(layers) > len(channels):
        raise ValueError(f"{origin}: expected linear weights of {len(channels)} layers, got {len(layers)}")
    return [_numbers(*layers[index], count, origin) for index, count in enumerate(channels)]


@torch.inference_mode(False)
def dists_weights(
    source: DistsSource, origin: str = "what was passed as alpha_beta"
) -> tuple[list[Tensor], list[Tensor]]:
    """DISTS's alpha (of means) and beta (of structures) as published, not normalised: each 6 x (C,) fp32 on the CPU.

    Args:
        source: None: the official ones; the path of a .pth, .pt or .safetensors file, or a state dict, with `alpha` and
            `beta`, (1, 1475, 1, 1) or (1475,).
        origin: what errors call a state dict.

    Raises:
        TypeError: a source of another type.
        ValueError: alpha or beta is missing or misshapen, or the file is damaged.
        FileNotFoundError: no file at the path.
    """
    state: object = source
    if source is None:
        path = _DATA / "dists.pt"
        state, origin = read_checkpoint(path, _REINSTALL), str(path)
    elif isinstance(source, str | os.PathLike):
        path = checked_path("alpha_beta", source, "None")
        state, origin = read_checkpoint(path, OTHER_FILE), str(path)
    if not isinstance(state, Mapping):
        raise TypeError(f"{origin}: expected a state dict with alpha and beta, got {type(state).__name__}")
    alpha, beta = (_by_layer(name, state.get(name), origin) for name in ("alpha", "beta"))
    return alpha, beta


def _by_layer(name: str, value: object, origin: str) -> list[Tensor]:  # 6 x (C,)
    return [part.clone() for part in _numbers(name, value, sum(DISTS_CHANNELS), origin).split(DISTS_CHANNELS)]


def _official(network: str, version: str, weights: WeightSource) -> tuple[object, str]:
    """What holds the linear weights that belong to a trunk, and what errors call it."""
    if isinstance(weights, str) and weights == "stlpips":
        return read_weights(weights, network)
    if network not in LPIPS_NETWORKS:
        raise ValueError(
            f"linear: expected False, a path or a state dict for {network}, got True; there are official weights for "
            f"{', '.join(LPIPS_NETWORKS)}"
        )
    path = _DATA / f"lpips-v{version}-{LPIPS_NETWORKS[network]}.pth"
    return read_checkpoint(path, _REINSTALL), str(path)


def _layers(held: object, origin: str) -> dict[int, tuple[str, object]]:
    """The linear weights by layer, and what errors call them."""
    if isinstance(held, list | tuple):
        return {index: (f"layer {index}", value) for index, value in enumerate(held)}
    if not isinstance(held, Mapping):
        expected = "True, False, a path, a state dict or a list of tensors"
        raise TypeError(f"linear: expected {expected}, got {type(held).__name__} from {origin}")
    layers: dict[int, tuple[str, object]] = {}
    for key, value in held.items():
        if match := _LINEAR.fullmatch(str(key)):
            layers.setdefault(int(match[1]), (repr(key), value))  # lpips has each twice, as lin0 and as lins.0
    if not layers:
        came = ", ".join(str(key) for key in list(held)[:3]) or "an empty one"
        raise ValueError(f"{origin}: expected keys of linear weights such as lin0.model.1.weight, got {came}")
    return layers


def _numbers(name: str, value: object, count: int, origin: str) -> Tensor:
    """One number a channel, (C,) fp32; a tensor of its own."""
    if value is None:
        raise ValueError(f"{origin}: expected {name}, got none")
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} in {origin}: expected a tensor, got {type(value).__name__}")
    if tuple(value.shape) not in ((1, count, 1, 1), (count,)) or not value.is_floating_point():
        raise ValueError(
            f"{name} in {origin}: expected a float tensor of shape (1, {count}, 1, 1), "
            f"got {value.dtype} {tuple(value.shape)}"
        )
    numbers = value.detach().to("cpu", torch.float32, copy=True).flatten()
    check_finite({name: numbers}, origin)
    return numbers
