"""Finds features by layer name in what modules return."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

_KEYS = re.compile(r"\[([^\[\]]+)\]")
_KEYS_AT_THE_END = re.compile(r"(?:\[[^\[\]]+\])+\Z")
ASKED_FOR = ("hidden_states", "attentions")  # of transformers' outputs
SHAPES = "(N, C), (N, T, C), (N, C, H, W) or (N, C, D, H, W)"


@dataclass(frozen=True)
class LayerPath:
    """A parsed layer name.

    Attributes:
        name: As the user wrote it: "encoder.layer.6[0]".
        source: A submodule, or an entry of what the module returns: "encoder.layer.6".
        keys: The indices after it: (0,).
    """

    name: str
    source: str
    keys: tuple[int | str, ...]

    @classmethod
    def of(cls, name: str, submodules: Collection[str]) -> LayerPath:
        if name in submodules:
            return cls(name, name, ())
        source = _KEYS_AT_THE_END.sub("", name)
        keys = _KEYS.findall(name[len(source) :])
        return cls(name, source, tuple(int(key) if re.fullmatch(r"-?\d+", key) else key for key in keys))


def entries_of(value: object) -> dict[str, object]:
    """The entries of a dict, dataclass or named tuple; whole numbers among the keys of a dict as they are written."""
    if isinstance(value, Mapping):
        return {str(key): entry for key, entry in value.items() if isinstance(key, (str, int))}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    return {}


def picked(value: object, keys: tuple[int | str, ...], name: str) -> object:
    """The entry of nested dicts, dataclasses, lists and tuples that the keys lead to.

    Raises:
        ValueError: There is none; the message names the layer.
    """
    for key in keys:
        entries = entries_of(value)
        if str(key) in entries:
            value = entries[str(key)]
        elif isinstance(key, int) and isinstance(value, (list, tuple)) and -len(value) <= key < len(value):
            value = value[key]
        else:
            _refuse_left_out(name, value, key)
            raise ValueError(f"layer {name!r}: expected an entry [{key}], got {_description(value)}")
    return value


def checked_feature(name: str, feature: object, batch: int) -> Tensor:
    """A feature of each image of a batch."""
    if not isinstance(feature, Tensor) or not feature.is_floating_point() or not 2 <= feature.dim() <= 5:
        raise ValueError(f"layer {name!r}: expected a floating-point tensor {SHAPES}, got {_description(feature)}")
    if feature.shape[0] != batch:
        raise ValueError(f"layer {name!r}: expected features of each of the {batch} images, got {feature.shape[0]}")
    return feature


def without_prefix(features: dict[str, Tensor], drop_tokens: int) -> dict[str, Tensor]:
    """The features by layer, tokens (N, T, C) without the first few."""
    for name, feature in features.items():
        if feature.dim() == 3 and feature.shape[1] <= drop_tokens:
            raise ValueError(
                f"layer {name!r}: expected more than drop_tokens={drop_tokens} tokens, got {feature.shape[1]}"
            )
    return {name: feature[:, drop_tokens:] if feature.dim() == 3 else feature for name, feature in features.items()}


def check_tokens(features: dict[str, Tensor], drop_tokens: int) -> None:
    """Refuses to drop tokens of a network whose layers give none."""
    if drop_tokens and all(feature.dim() != 3 for feature in features.values()):
        came = ", ".join(f"{name!r} of shape {tuple(feature.shape)}" for name, feature in features.items())
        raise ValueError(
            f"drop_tokens: expected 0 where no layer gives tokens (N, T, C), got {drop_tokens} for {came}; leave it "
            "out, or name a layer that gives tokens"
        )


def as_map(feature: Tensor) -> Tensor:
    """A feature of any of the shapes as a map (N, C, H, W), without a copy."""
    if feature.dim() == 2:
        return feature[:, :, None, None]
    if feature.dim() == 3:
        return feature.transpose(1, 2).unsqueeze(3)
    return feature.flatten(2, 3) if feature.dim() == 5 else feature


def missing(path: LayerPath, module: nn.Module, returned: object) -> ValueError:
    """The error for a layer that is not there."""
    submodules = [name for name, _ in module.named_modules(remove_duplicate=False) if name]
    kind = type(module).__name__
    if path.source in submodules:
        return ValueError(f"layer {path.name!r}: expected a submodule that runs in the forward of {kind}, it does not")
    _refuse_left_out(path.name, returned, path.source)
    known = [*submodules, *entries_of(returned)]
    close = difflib.get_close_matches(path.source, known, n=5, cutoff=0.4)
    hint = f"close to it: {', '.join(close)}" if close else f"known: {', '.join([*known, 'output'])}"
    return ValueError(f"layer {path.name!r}: expected a submodule of {kind} or an entry of what it returns; {hint}")


def _refuse_left_out(name: str, value: object, key: int | str) -> None:
    """Refuses outputs that transformers omits unless the config asks for them."""
    if key in ASKED_FOR and dataclasses.is_dataclass(value) and getattr(value, str(key), "") is None:
        raise ValueError(
            f"layer {name!r}: expected {key} in the {type(value).__name__} that the network returns, got None; set "
            f"network.config.output_{key} = True before you make the loss, or load it with output_{key}=True"
        )


def _description(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    names = entries_of(value)
    return f"{type(value).__name__} with {', '.join(names)}" if names else type(value).__name__
