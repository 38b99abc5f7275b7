"""Trained networks as files: programs of torch.export, which run without the code that made them."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.export.passes import move_to_device_pass

from .. import _checks as checks
from ..images import written_whole

KINDS = ("style", "super-resolution")
SMALLEST, LARGEST = 17, 8192  # pixels of a side
MAX_BATCH = 1024
SIDES = ((2, "height"), (3, "width"))
FACTS = "perceptual_ops.json"  # the file inside


@dataclass(frozen=True)
class Model:
    """A trained network.

    Attributes:
        kind: "style" or "super-resolution".
        scale: How many times larger its results are.
        network: Images (N, 3, H, W) in [0, 1] -> (N, 3, scale H, scale W); a little may lie beyond [0, 1].
    """

    kind: str
    scale: int
    network: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], on the model's device -> (N, 3, scale H, scale W) in [0, 1].

        Raises:
            ValueError: A side is too small or too large.
        """
        if images.dim() != 4 or images.shape[1] != 3 or not 1 <= images.shape[0] <= MAX_BATCH:
            raise ValueError(f"images: expected (1 to {MAX_BATCH}, 3, H, W), got {tuple(images.shape)}")
        if not all(SMALLEST <= side <= LARGEST for side in images.shape[2:]):
            raise ValueError(f"images: expected sides of {SMALLEST} to {LARGEST} pixels, got {tuple(images.shape[2:])}")
        return self.network(images).clamp(0, 1)


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
    program = export(network)
    with written_whole(Path(path)) as file, file.open("wb") as stream:
        torch.export.save(program, stream, extra_files={FACTS: json.dumps({"kind": kind, "scale": scale})})


def export(network: nn.Module) -> torch.export.ExportedProgram:
    """The network for any batch and any size of images, on the CPU in fp32. ValueError where that cannot be."""
    network = copy.deepcopy(network).eval().cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # not in its stubs
    example = torch.rand(2, 3, 48, 64)
    sizes = {0: Dim("batch", min=1, max=MAX_BATCH), **{i: Dim(name, min=SMALLEST, max=LARGEST) for i, name in SIDES}}
    try:
        return torch.export.export(network, (example,), dynamic_shapes=(sizes,))
    except Exception as error:  # whatever torch.export stumbles over: it has many kinds of errors and no common one
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"network: expected one that torch.export takes for any size of images, "
            f"{type(network).__name__} is not ({reason})"
        ) from error


def load_model(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Model:
    """A network that `save_model` wrote.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no model of these recipes.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{os.fspath(path)}: expected a model, there is no such file")
    facts = {FACTS: ""}
    try:
        program = torch.export.load(path, extra_files=facts)
        found = json.loads(facts[FACTS])
        kind, scale = found["kind"], found["scale"]
    except Exception as error:  # torch.export.load has no error of its own
        raise ValueError(
            f"{os.fspath(path)}: expected a model of train-style or train-sr, this file cannot be read as one ({error})"
        ) from error
    program = move_to_device_pass(program, device)
    return Model(kind, scale, program.module())
