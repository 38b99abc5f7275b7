"""The file of a model: weights in a safetensors file, and what they are for as JSON in its metadata.

Opening one executes nothing that is in it. A network of ours is named out of a closed table, with its arguments; of a
network of one's own the import path is a text to compare with what the caller imports.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .. import _checks as checks
from .._failures import reason
from ..networks.checkpoint_files import check_finite_state
from .transform_net import SCALES, StyleNet, SuperResolutionNet

ModelKind = Literal["style", "super-resolution"]
KINDS: tuple[ModelKind, ...] = get_args(ModelKind)
SMALLEST, LARGEST = 17, 8192  # pixels of a side that a network is given; smaller images are extended
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)  # of pixels, which networks that halve and double want
MAX_BATCH = 1024
MAX_SCALE = 16
KEY = "perceptual_ops"  # of the metadata
VERSION = 1
ZIP = b"PK\x03\x04"  # how archives begin; as the length of a header it would be 67 MB
MAX_HEADER, MAX_FACTS = 16 << 20, 1 << 12  # bytes
# The networks that a file may name -> what each argument may be.
NETWORKS: dict[type[nn.Module], dict[str, Sequence[int]]] = {
    StyleNet: {"width": range(1, 4097), "blocks": range(1001)},
    SuperResolutionNet: {"scale": SCALES, "width": range(1, 4097), "blocks": range(1001)},
}
BY_NAME = {network.__name__: network for network in NETWORKS}
IMPORT_PATH = re.compile(r"[\w.<>-]{1,256}:[\w.<>-]{1,256}")


@dataclass(frozen=True)
class ModelFacts:
    """What a file says of its weights.

    Attributes:
        kind: "style" or "super-resolution".
        scale: How many times larger the results are, 1 to 16.
        multiple: Of pixels that the sides of what the network is given have to be, 1, 2, 4 ... 64.
        network: A name in `BY_NAME`, or package.module:name of a network of one's own.
        arguments: Of the network in `BY_NAME`, whole numbers; of one's own none.

    Raises:
        ValueError: One of them is something else.
    """

    kind: ModelKind
    scale: int
    multiple: int
    network: str
    arguments: dict[str, int]

    def __post_init__(self) -> None:
        checks.check_choice("kind", self.kind, KINDS)
        _check_among("scale", self.scale, range(1, MAX_SCALE + 1))
        _check_among("multiple", self.multiple, MULTIPLES)
        if not isinstance(self.network, str) or not (self.network in BY_NAME or IMPORT_PATH.fullmatch(self.network)):
            raise ValueError(
                f"network: expected {', '.join(BY_NAME)} or package.module:name, got {repr(self.network)[:80]}"
            )
        allowed = {} if self.of_ones_own else NETWORKS[BY_NAME[self.network]]
        if not isinstance(self.arguments, dict) or set(self.arguments) != set(allowed):
            raise ValueError(f"arguments: expected {sorted(allowed)}, got {repr(self.arguments)[:80]}")
        for name, values in allowed.items():
            _check_among(name, self.arguments[name], values)
        if not self.of_ones_own and (self.scale, self.multiple) != (self.arguments.get("scale", 1), 1):
            raise ValueError(
                f"scale, multiple: expected those of {self.network}, {(self.arguments.get('scale', 1), 1)}, "
                f"got {(self.scale, self.multiple)}"
            )

    @property
    def of_ones_own(self) -> bool:
        return self.network not in BY_NAME


def side_taken(side: int, multiple: int) -> int:
    """The least side of at least as many pixels that a network takes; of two multiples, as one may end as a map of one
    pixel, which torch.export takes for a constant."""
    return math.ceil(max(side, SMALLEST, 2 * multiple) / multiple) * multiple


def blank_network(facts: ModelFacts) -> nn.Module:
    """One of our networks without memory for its weights."""
    with torch.device("meta"):
        return BY_NAME[facts.network](**facts.arguments)


def check_weights(weights: Mapping[str, Tensor], network: nn.Module) -> None:
    """Whether they can be the network's: names, shapes, dtypes but for precision, and finite numbers.

    Raises:
        ValueError: They cannot.
    """
    wanted = network.state_dict()
    if unlike := sorted(set(weights) ^ set(wanted)):
        lack = "missing" if unlike[0] in wanted else "none of them"
        raise ValueError(f"weights: expected those of {type(network).__name__}, {unlike[0][:80]!r} is {lack}")
    for name, value in weights.items():
        shape = tuple(wanted[name].shape)
        if tuple(value.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
        if value.dtype != wanted[name].dtype and not {value.dtype, wanted[name].dtype} <= set(checks.DTYPES):
            raise ValueError(f"{name}: expected dtype {wanted[name].dtype}, got {value.dtype}")
    check_finite_state(weights, network, "the file")


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Copies of a network's state on the CPU, none sharing memory.

    Raises:
        ValueError: A file cannot hold it: no dense tensors alone, a dtype of 8 bits, numbers that are not finite.
    """
    weights = {}
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            kind = f"{value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"network: expected a state of dense tensors alone, {name} is a {kind}")
        if value.is_floating_point() and value.dtype not in checks.DTYPES:
            raise ValueError(f"network: expected fp32, fp16, bf16 or fp64, {name} is {value.dtype}")
        try:
            weights[name] = value.detach().cpu().contiguous().clone()
        except Exception as error:  # of lazy modules, and other tensors without data
            raise ValueError(
                f"network: expected weights that can be copied, {name} cannot ({reason(error)})"
            ) from error
    check_finite_state(weights, network, f"the network {type(network).__name__}")
    return weights


def encoded(weights: Mapping[str, Tensor], facts: ModelFacts) -> bytes:
    """The bytes of a file. ValueError where safetensors cannot hold a dtype."""
    safetensors = installed_safetensors()
    try:
        data: bytes = safetensors.torch.save(dict(weights), {KEY: json.dumps({"version": VERSION, **asdict(facts)})})
    except Exception as error:  # it has several kinds
        raise ValueError(f"network: expected weights that safetensors can hold ({reason(error)})") from error
    return data


def read_model_file(path: str | os.PathLike[str]) -> tuple[ModelFacts, dict[str, Tensor]]:
    """What a file says, and its weights, which are still on disk.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no model of these recipes, in a sentence.
    """
    name, safetensors = os.fspath(path), installed_safetensors()
    expected = f"{name}: expected a model of train-style or train-sr, this"
    if not Path(path).exists():
        raise FileNotFoundError(f"{name}: expected a model, there is no such file")
    if not Path(path).is_file():
        raise ValueError(f"{expected} is a folder or a device")
    with open(path, "rb") as file:
        begin = file.read(8)
    if begin.startswith(ZIP):
        raise ValueError(
            f"{expected} file is an archive of torch.export or torch.save, which can run code of its own when it is "
            f"opened; train the model again, into a .safetensors file, or convert one of your own as CHANGELOG.md says"
        )
    if len(begin) < 8 or int.from_bytes(begin, "little") > MAX_HEADER:
        raise ValueError(f"{expected} file is no safetensors file")
    try:
        with safetensors.safe_open(name, framework="pt") as file:
            facts = _facts((file.metadata() or {}).get(KEY))
            return facts, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no dict
    except Exception as error:  # damaged bytes
        raise ValueError(f"{expected} file cannot be read as one ({reason(error)})") from error


def is_model_file(path: str | os.PathLike[str]) -> bool:
    try:
        read_model_file(path)
    except (OSError, ValueError):
        return False
    return True


def installed_safetensors() -> Any:
    """The package, torch's part loaded."""
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "model files need safetensors, which is not installed: pip install 'perceptual_ops[cli]'"
        ) from None
    return safetensors


def _facts(text: str | None) -> ModelFacts:
    if text is None:
        raise ValueError("its metadata says nothing about a model")
    if len(text) > MAX_FACTS:
        raise ValueError("its metadata is too long")
    try:
        found = json.loads(text, object_pairs_hook=_once_each)
    except RecursionError:
        raise ValueError("its metadata is nested too deeply") from None
    names = ("version", *ModelFacts.__dataclass_fields__)
    if not isinstance(found, dict) or set(found) != set(names):
        raise ValueError(f"expected {', '.join(names)} in its metadata, got {repr(found)[:80]}")
    version = found.pop("version")
    if version != VERSION or isinstance(version, bool | float):
        raise ValueError(f"version: expected {VERSION}, got {repr(version)[:80]}; update perceptual_ops")
    return ModelFacts(**found)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("expected each name once in its metadata")
    return dict(pairs)


def _check_among(name: str, value: object, allowed: Sequence[int]) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
        last = allowed[-1]
        known = f"{allowed[0]} to {last}" if isinstance(allowed, range) else ", ".join(map(str, allowed))
        raise ValueError(f"{name}: expected {known}, got {repr(value)[:80]}")
