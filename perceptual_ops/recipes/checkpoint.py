"""Checkpoints of a training: what makes two runs the same, and states of all parts in one file."""

from __future__ import annotations

import hashlib
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._failures import reason
from ..files import write_whole
from ..networks.checkpoint_files import check_finite_state, read_checkpoint, sha256_of
from .training_state import restore

RESTART_HINT = "remove it to begin anew"
PICTURES = "hash of the pictures"  # the setting that is `contents` of them


def save_checkpoint(path: Path, done: int, settings: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Writes how many steps are done, what decides the curve, and the state of each part, whole or not at all."""
    states = {name: part.state_dict() for name, part in parts.items()}
    encoded = io.BytesIO()
    torch.save({"done": done, "settings": dict(settings), **states}, encoded)
    write_whole(path, encoded.getbuffer())


def load_checkpoint(path: Path, settings: Mapping[str, Any], parts: Mapping[str, Any], data: Path | None = None) -> int:
    """Brings the parts to the states in the file, of which it takes what steps change: the rest is as they were made.

    Args:
        path: The file.
        settings: Of this run; those of the file have to be the same.
        parts: As `restore` takes them.
        data: The folder of the pictures, for an error.

    Returns:
        How many steps are done.

    Raises:
        ValueError: The file is damaged or holds numbers that are none, or it is of a run with other settings, other
            pictures or another network.
    """
    state = read_checkpoint(path, RESTART_HINT)
    kinds = {"settings": Mapping, "done": int, **dict.fromkeys(parts, Mapping)}
    if not isinstance(state, Mapping) or not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"{path}: expected a checkpoint of a training, this file holds none; {RESTART_HINT}")
    check_finite_state(state["model"], parts["model"], str(path))
    _check_settings(path, state["settings"], settings, data)
    done: int = state["done"]
    if isinstance(done, bool) or not 1 <= done <= settings.get("steps", done):
        raise ValueError(
            f"{path}: expected a checkpoint of one of the {settings['steps']} steps, got {done}; {RESTART_HINT}"
        )
    try:
        restore(parts, state, done)
    except Exception as error:  # load_state_dict raises whatever the file provokes
        raise ValueError(f"{path}: expected a checkpoint of this network ({reason(error)}); {RESTART_HINT}") from error
    return done


def _check_settings(path: Path, found: Mapping[str, Any], settings: Mapping[str, Any], data: Path | None) -> None:
    for name, wanted in settings.items():
        if name not in found:
            raise ValueError(f"{path}: expected a checkpoint of this version, it lacks the {name}; {RESTART_HINT}")
        if _same(found[name], wanted):
            continue
        if name == PICTURES:
            raise ValueError(
                f"{path}: expected the pictures that this run began with, those in {data} changed since; put them "
                f"back, or remove the checkpoint to begin anew"
            )
        was = textwrap.shorten(repr(found[name]), 80)
        raise ValueError(
            f"{path}: expected a checkpoint of this run, its {name} is {was}, not {wanted!r}; {RESTART_HINT}"
        )


def _same(found: object, wanted: object) -> bool:
    try:
        return bool(found == wanted)
    except RuntimeError:  # tensors, which no setting is
        return False


def fingerprint(source: object) -> str:
    """Tells one picture (1, 3, H, W), state dict or source of weights from another."""
    if isinstance(source, Tensor):
        data = source.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(source, Mapping):
        data = "".join(fingerprint(source[name]) for name in source).encode()
    else:
        data = str(source).encode(errors="surrogateescape")
    return hashlib.sha256(data).hexdigest()[:16]


def contents(files: Sequence[Path]) -> str:
    """Tells files from others, by their names and all of their bytes.

    Not by their times, which differ between copies of a data set and need not between edits. A core hashes some 450 MB
    in a second, many times what it decodes.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            found = sha256_of(path)
        except OSError as error:  # it is left out of the training, too
            found = type(error).__name__
        digest.update(f"{path.name}\0{found}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
