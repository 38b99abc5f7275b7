"""What modules return, and how a layer's name finds its feature in it."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

_KEYS = re.compile(r"\[([^\[\]]+)\]")
_KEYS_AT_THE_END = re.compile(r"(?:\[[^\[\]]+\])+\Z")
SHAPES = "(N, C), (N, T, C), (N, C, H, W) or (N, C, D, H, W)"


@dataclass(frozen=True)
class LayerPath:
    """A layer's name, taken apart.

    Attributes:
        name: As the user wrote it: "encoder.layer.6[0]".
        source: A submodule, or an entry of what the module returns: "encoder.layer.6".
        keys: What goes on from there: (0,).
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


def entry_names(returned: object) -> list[str]:
    """The keys of a dict, or the fields of a dataclass."""
    if isinstance(returned, Mapping):
        return [key for key in returned if isinstance(key, str)]
    if dataclasses.is_dataclass(returned):
        return [field.name for field in dataclasses.fields(returned)]
    return []


def picked(value: object, keys: tuple[int | str, ...], name: str) -> object:
    """The entry of nested dicts, dataclasses, lists and tuples that the keys lead to.

    Raises:
        ValueError: There is none; the message names the layer.
    """
    for key in keys:
        if isinstance(key, str) and key in entry_names(value):
            value = value[key] if isinstance(value, Mapping) else getattr(value, key)
        elif isinstance(key, int) and isinstance(value, (list, tuple)) and -len(value) <= key < len(value):
            value = value[key]
        else:
            raise ValueError(f"layer {name!r}: expected an entry [{key}], got {_description(value)}")
    return value


def without_prefix(name: str, feature: object, batch: int, drop_tokens: int) -> Tensor:
    """A feature, checked, tokens without the first few."""
    if not isinstance(feature, Tensor) or not feature.is_floating_point() or not 2 <= feature.dim() <= 5:
        raise ValueError(f"layer {name!r}: expected a floating-point tensor {SHAPES}, got {_description(feature)}")
    if feature.shape[0] != batch:
        raise ValueError(f"layer {name!r}: expected features of each of the {batch} images, got {feature.shape[0]}")
    if not drop_tokens or feature.dim() != 3:
        return feature
    if feature.shape[1] <= drop_tokens:
        raise ValueError(f"layer {name!r}: expected more than drop_tokens={drop_tokens} tokens, got {feature.shape[1]}")
    return feature[:, drop_tokens:]


def as_map(feature: Tensor) -> Tensor:
    """A feature of any of the shapes as a map (N, C, H, W), without a copy."""
    if feature.dim() == 2:
        return feature[:, :, None, None]
    if feature.dim() == 3:
        return feature.transpose(1, 2).unsqueeze(3)
    return feature.flatten(2, 3) if feature.dim() == 5 else feature


def missing(path: LayerPath, module: nn.Module, entries: list[str]) -> ValueError:
    """Says why there is no such layer."""
    submodules = [name for name, _ in module.named_modules(remove_duplicate=False) if name]
    kind = type(module).__name__
    if path.source in submodules:
        return ValueError(f"layer {path.name!r}: expected a submodule that runs in the forward of {kind}, it does not")
    known = submodules + entries
    close = difflib.get_close_matches(path.source, known, n=5, cutoff=0.4)
    hint = f"close to it: {', '.join(close)}" if close else f"known: {', '.join([*known, 'output'])}"
    return ValueError(f"layer {path.name!r}: expected a submodule of {kind} or an entry of what it returns; {hint}")


def _description(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    names = entry_names(value)
    return f"{type(value).__name__} with {', '.join(names)}" if names else type(value).__name__
