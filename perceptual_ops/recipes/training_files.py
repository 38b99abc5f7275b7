"""The files that a training writes, and that they take the place of nothing else."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..files import PathLike, check_apart, check_writable_file, is_taken
from ..networks.weights import WeightSource
from .exported import FACTS
from .model_file import installed_safetensors, is_model_file
from .training_log import is_log, is_plot

SUFFIX = ".safetensors"
PROGRAM_SUFFIX = ".pt2"  # of programs; models had it, so that theirs may still end with it


@dataclass(frozen=True)
class TrainingFiles:
    """Where a training writes: its model, what lies beside it, and a program of torch.export if there is to be one."""

    model: Path
    program: Path | None = None

    @property
    def log(self) -> Path:
        return self.model.with_suffix(".log.csv")

    @property
    def plot(self) -> Path:
        return self.model.with_suffix(".log.png")

    @property
    def checkpoint(self) -> Path:
        return self.model.with_suffix(".checkpoint")

    @property
    def all(self) -> list[Path]:
        program = [] if self.program is None else [self.program]
        return [self.model, self.log, self.plot, self.checkpoint, *program]

    def check(self, inputs: Iterable[PathLike] = ()) -> None:
        """Refuses what would fail at the end, and to replace an input, or a file that no training wrote.

        A checkpoint is looked into by `load_checkpoint`.

        Raises:
            ValueError, OSError: In a sentence.
            ModuleNotFoundError: safetensors is not installed.
        """
        installed_safetensors()
        _check_name("out", self.model, (SUFFIX, PROGRAM_SUFFIX))
        if self.program is not None:
            _check_name("export", self.program, (PROGRAM_SUFFIX,))
        check_apart(self.all, inputs)
        for path in self.all:
            check_writable_file(path)
        if is_taken(self.model) and not is_model_file(self.model):
            raise FileExistsError(
                f"{self.model}: expected a name that is free, this file is no model of a training; move it or choose "
                f"another name"
            )
        _check_replaceable(self.log, "the log of a training", is_log)
        _check_replaceable(self.plot, "the plot of a training's log", is_plot)
        if self.program is not None:
            _check_replaceable(self.program, "a program of a training", is_program)


def input_files(pictures: Iterable[PathLike], weights: WeightSource) -> list[PathLike]:
    """What a training reads."""
    return [*pictures, *([weights] if isinstance(weights, str | os.PathLike) else [])]


def is_program(path: Path) -> bool:
    """Whether `export_model` wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"/{FACTS}") for name in archive.namelist())
    except Exception:  # no archive, or a damaged one
        return False


def _check_replaceable(path: Path, what: str, is_one: Callable[[Path], bool]) -> None:
    if is_taken(path) and not is_one(path):
        raise FileExistsError(
            f"{path}: expected nothing or {what} here, this file is none; move it or choose another name"
        )


def _check_name(argument: str, path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix not in suffixes or path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            f"{argument}: expected a name that ends with {suffixes[0]}, in a folder that is there; got {path}"
        )
