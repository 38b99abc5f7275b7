"""Checkpoints of a training: what makes two runs the same, and states of all parts in one file."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._failures import reason
from ..files import write_whole
from ..networks.checkpoint_files import check_finite_state, read_checkpoint

ANEW = "remove it to begin anew"
EXCERPT = 4096  # bytes of a file that are read at each of three places


def save_checkpoint(path: Path, done: int, settings: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Writes how many steps are done, what decides the curve, and the state of each part, whole or not at all."""
    states = {name: part.state_dict() for name, part in parts.items()}
    encoded = io.BytesIO()
    torch.save({"done": done, "settings": dict(settings), **states}, encoded)
    write_whole(path, encoded.getbuffer())


def load_checkpoint(path: Path, settings: Mapping[str, Any], parts: Mapping[str, Any]) -> int:
    """Brings the parts to the states in the file.

    Returns:
        How many steps are done.

    Raises:
        ValueError: The file is damaged or holds weights that are not finite, or it is of a run with other settings or
            another network.
    """
    state = read_checkpoint(path, ANEW)
    kinds = {"settings": Mapping, "done": int, **dict.fromkeys(parts, Mapping)}
    if not isinstance(state, Mapping) or not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"{path}: expected a checkpoint of a training, this file holds none; {ANEW}")
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            check_finite_state(state[name], part, str(path))
    _check_settings(path, state["settings"], settings)
    done = state["done"]
    if isinstance(done, bool) or not 1 <= done <= settings.get("steps", done):
        raise ValueError(f"{path}: expected a checkpoint of one of the {settings['steps']} steps, got {done}; {ANEW}")
    try:
        for name, part in parts.items():
            _check_kinds(name, state[name], part.state_dict())
            part.load_state_dict(state[name])
            if isinstance(part, torch.optim.Optimizer):
                _check_moments(part)
    except Exception as error:  # load_state_dict meets whatever the file holds
        raise ValueError(f"{path}: expected a checkpoint of this network ({reason(error)}); {ANEW}") from error
    return done


def _check_settings(path: Path, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for name, wanted in settings.items():
        if name not in found:
            raise ValueError(f"{path}: expected a checkpoint of this version, it lacks the {name}; {ANEW}")
        if found[name] != wanted:
            raise ValueError(
                f"{path}: expected a checkpoint of this run, its {name} is {found[name]!r}, not {wanted!r}; {ANEW}"
            )


def _check_kinds(name: str, found: object, wanted: object) -> None:
    """Refuses a state that is built otherwise than the one it is to replace: not every part looks at what it loads.

    What an empty state becomes, such as that of an optimizer before its first step, is not known here.
    """
    numbers = isinstance(wanted, int | float) and isinstance(found, int | float)
    if not numbers and not isinstance(found, type(wanted)):
        raise TypeError(f"{name}: expected {type(wanted).__name__}, got {type(found).__name__}")
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key in wanted:
            if key not in found:
                raise KeyError(f"{name}: expected {key}")
            _check_kinds(f"{name}.{key}", found[key], wanted[key])
    elif isinstance(wanted, list) and isinstance(found, list):
        if len(found) != len(wanted):
            raise ValueError(f"{name}: expected {len(wanted)} values, got {len(found)}")
        for number, pair in enumerate(zip(found, wanted, strict=True)):
            _check_kinds(f"{name}.{number}", *pair)


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if not isinstance(value, Tensor) or (value.dim() and value.shape != parameter.shape):
                raise ValueError(f"optimizer: expected {name} of shape {tuple(parameter.shape)} or ()")


def fingerprint(source: object) -> str:
    """Tells one picture (1, 3, H, W), state dict, list of files or source of weights from another."""
    if isinstance(source, Tensor):
        data = source.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(source, Mapping):
        data = "".join(fingerprint(source[name]) for name in source).encode()
    else:
        named = str([path.name for path in source] if isinstance(source, list) else source)
        data = named.encode(errors="surrogateescape")
    return hashlib.sha256(data).hexdigest()[:16]


def contents(files: Sequence[Path]) -> str:
    """Tells files from others of the same names: by the size of each, and by its beginning, middle and end.

    Not by their times, which differ between copies of a data set. What is changed elsewhere in a file of more than 12
    KiB without changing its size goes unnoticed: in an uncompressed format that can be.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(_excerpt(path))
        except OSError as error:  # it is left out of the training, too
            digest.update(type(error).__name__.encode())
    return digest.hexdigest()[:16]


def _excerpt(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        parts = [size.to_bytes(8, "little")]
        for start in (0, max(0, size - EXCERPT) // 2, max(0, size - EXCERPT)):
            file.seek(start)
            parts.append(file.read(EXCERPT))
    return b"".join(parts)
