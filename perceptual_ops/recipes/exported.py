"""Trained networks as programs of torch.export, for use without this library. Nothing here opens one."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from .. import _checks as checks
from ..files import write_whole
from .model_file import KINDS, LARGEST, MAX_BATCH, MULTIPLES, ModelKind, side_taken

FACTS = "perceptual_ops.json"  # the file inside that says what the program does


def export_model(path: str | os.PathLike[str], network: nn.Module, kind: ModelKind, scale: int = 1) -> None:
    """Writes a network as a program for any batch and any size of images, on the CPU in fp32, unclamped.

    `torch.export.load(path).module()` runs it. Its sides are of 17 to 8192 pixels, and of what "multiple" in the file
    `FACTS` inside says.

    Args:
        path: With suffix .pt2.
        network: (N, 3, H, W) -> (N, 3, scale H, scale W); left as it is.
        kind: "style" or "super-resolution".
        scale: How many times larger its results are.

    Raises:
        ValueError: torch.export cannot take the network, or not for any size.
        OSError: As `write_whole`.
    """
    checks.check_choice("kind", kind, KINDS)
    program, multiple = exported(network, scale)
    facts = json.dumps({"kind": kind, "scale": scale, "multiple": multiple})
    encoded = io.BytesIO()
    torch.export.save(program, encoded, extra_files={FACTS: facts})
    write_whole(path, encoded.getbuffer())


def exported(network: nn.Module, scale: int) -> tuple[torch.export.ExportedProgram, int]:
    """The program, and what the sides of its images are to be a multiple of. ValueError where that cannot be."""
    network = copy.deepcopy(network).eval().cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # not in its stubs
    errors = []
    for multiple in MULTIPLES:
        try:
            with _silenced():
                return _exported(network, scale, multiple), multiple
        except Exception as error:  # whatever torch.export stumbles over: it has many kinds of errors and no common one
            errors.append(error)
    reason = (str(errors[-1]).strip() or type(errors[-1]).__name__).splitlines()[0]
    raise ValueError(
        f"network: expected one that torch.export takes for any size of images, or for sides that are multiples of "
        f"{MULTIPLES[-1]} pixels at most, {type(network).__name__} is not ({reason})"
    ) from errors[-1]


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """torch logs a traceback for each size that a network does not take."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


@torch.no_grad()
def _exported(network: nn.Module, scale: int, multiple: int) -> torch.export.ExportedProgram:
    sizes: dict[int, Any] = {0: Dim("batch", min=1, max=MAX_BATCH)}
    for axis, name in ((2, "height"), (3, "width")):
        sizes[axis] = multiple * Dim(name, min=side_taken(1, multiple) // multiple, max=LARGEST // multiple)
    # Odd counts of multiples: a network that halves and doubles loses a pixel of sides that it should not be given.
    count = max(3, 32 // multiple + 1)
    height, width = count * multiple, (count + 2) * multiple
    example = torch.rand(2, 3, height, width)
    got, wanted = tuple(network(example).shape), (2, 3, scale * height, scale * width)
    if got != wanted:
        raise ValueError(f"expected images {wanted} from images {tuple(example.shape)}, got {got}")
    return torch.export.export(network, (example,), dynamic_shapes=(sizes,))
