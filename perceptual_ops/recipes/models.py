"""Trained networks as files: programs of torch.export, which run without the code that made them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim
from torch.export.passes import move_to_device_pass

from .. import _checks as checks
from ..files import write_whole

KINDS = ("style", "super-resolution")
SMALLEST, LARGEST = 17, 8192  # pixels of a side that a program is given; smaller images are extended
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)  # of pixels, which networks that halve and double want
MAX_BATCH = 1024
FACTS = "perceptual_ops.json"  # the file inside


@dataclass(frozen=True)
class Model:
    """A trained network.

    Attributes:
        kind: "style" or "super-resolution".
        scale: How many times larger its results are.
        multiple: Of pixels that the sides of what the network is given have to be.
        network: Images (N, 3, H, W) in [0, 1] -> (N, 3, scale H, scale W); a little may lie beyond [0, 1].
    """

    kind: str
    scale: int
    multiple: int
    network: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], on the model's device -> (N, 3, scale H, scale W) in [0, 1].

        Sides that the network cannot take are extended by their last pixels, and the result is cut.

        Raises:
            ValueError: A side is too large, or it is no batch of images.
        """
        if images.dim() != 4 or images.shape[1] != 3 or not 1 <= images.shape[0] <= MAX_BATCH:
            raise ValueError(f"images: expected (1 to {MAX_BATCH}, 3, H, W), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        if not 1 <= min(height, width) <= max(height, width) <= LARGEST:
            raise ValueError(f"images: expected sides of 1 to {LARGEST} pixels, got {(height, width)}")
        bottom, right = (_taken(side, self.multiple) - side for side in (height, width))
        result = self.network(F.pad(images, (0, right, 0, bottom), mode="replicate"))
        return result[..., : self.scale * height, : self.scale * width].clamp(0, 1)


def _taken(side: int, multiple: int) -> int:
    """The least side of at least as many pixels that a network takes; of two multiples, as one may end as a map of one
    pixel, which torch.export takes for a constant."""
    return math.ceil(max(side, SMALLEST, 2 * multiple) / multiple) * multiple


def save_model(path: str | os.PathLike[str], network: nn.Module, kind: str, scale: int = 1) -> None:
    """Writes a network for any batch and any size of images.

    Args:
        path: With suffix .pt2.
        network: (N, 3, H, W) -> (N, 3, scale H, scale W); left as it is.
        kind: "style" or "super-resolution".
        scale: How many times larger its results are.

    Raises:
        ValueError: torch.export cannot take the network, or not for any size.
    """
    checks.check_choice("kind", kind, KINDS)
    program, multiple = export(network, scale)
    facts = json.dumps({"kind": kind, "scale": scale, "multiple": multiple})
    encoded = io.BytesIO()
    torch.export.save(program, encoded, extra_files={FACTS: facts})
    write_whole(path, encoded.getbuffer())


def export(network: nn.Module, scale: int) -> tuple[torch.export.ExportedProgram, int]:
    """The network for any batch and any size of images, on the CPU in fp32, and what the sides are to be a multiple of.

    ValueError where that cannot be.
    """
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
        sizes[axis] = multiple * Dim(name, min=_taken(1, multiple) // multiple, max=LARGEST // multiple)
    # Odd counts of multiples: a network that halves and doubles loses a pixel of sides that it should not be given.
    count = max(3, 32 // multiple + 1)
    height, width = count * multiple, (count + 2) * multiple
    example = torch.rand(2, 3, height, width)
    got, wanted = tuple(network(example).shape), (2, 3, scale * height, scale * width)
    if got != wanted:
        raise ValueError(f"expected images {wanted} from images {tuple(example.shape)}, got {got}")
    return torch.export.export(network, (example,), dynamic_shapes=(sizes,))


def load_model(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Model:
    """A network that `save_model` wrote.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no model of these recipes.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: expected a model, there is no such file")
    if not _has_facts(path):  # what torch.export cannot load, it prints with a traceback
        raise ValueError(f"{name}: expected a model of train-style or train-sr, this file is none")
    facts = {FACTS: ""}
    try:
        program = torch.export.load(path, extra_files=facts)
        found = json.loads(facts[FACTS])
        kind, scale, multiple = found["kind"], found["scale"], found["multiple"]
    except Exception as error:  # torch.export.load has no error of its own
        raise ValueError(
            f"{name}: expected a model of train-style or train-sr, this file cannot be read as one ({error})"
        ) from error
    program = move_to_device_pass(program, device)
    return Model(kind, scale, multiple, program.module())


def _has_facts(path: str | os.PathLike[str]) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(FACTS) for name in archive.namelist())
