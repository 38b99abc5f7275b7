"""The files that a training writes, and that they take the place of nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..files import PathLike, check_apart, check_writable_file, is_taken
from ..networks.weights import WeightSource
from .model_file import ZIP, installed_safetensors, is_model_file
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

        A checkpoint is looked into by `load_checkpoint`, and a log that it goes on with by `read_log`.

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
        self._check_model()
        _check_replaceable(self.plot, "the plot of a training's log", is_plot)
        _check_replaceable(self.checkpoint, "a checkpoint of a training", is_archive)
        if self.checkpoint.exists():  # of this run, or it is refused; so is a log that does not go with it
            return
        _check_replaceable(self.log, "the log of a training", is_log)
        if self.program is not None and is_taken(self.program):
            raise FileExistsError(
                f"{self.program}: expected a name that is free, this file is there; move it or choose another name"
            )

    def _check_model(self) -> None:
        if is_taken(self.model) and not is_model_file(self.model):
            raise FileExistsError(
                f"{self.model}: expected a name that is free, this file is no model of a training; move it or choose "
                f"another name"
            )
        for suffix in (SUFFIX, PROGRAM_SUFFIX):
            other = self.model.with_suffix(suffix)
            if other != self.model and other.exists() and is_model_file(other):
                raise FileExistsError(
                    f"{self.model}: expected a log and a checkpoint of its own, {self.log} is of {other}; choose "
                    f"another name"
                )


def input_files(pictures: Iterable[PathLike], weights: WeightSource) -> list[PathLike]:
    """What a training reads."""
    return [*pictures, *([weights] if isinstance(weights, str | os.PathLike) else [])]


def is_archive(path: Path) -> bool:
    """Whether it begins as what torch.save writes."""
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def _check_replaceable(path: Path, what: str, is_one: Callable[[Path], bool]) -> None:
    if is_taken(path) and not is_one(path):
        raise FileExistsError(
            f"{path}: expected nothing or {what} here, this file is none; move it or choose another name"
        )


def _check_name(argument: str, path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix not in suffixes:
        raise ValueError(f"{argument}: expected a name that ends with {suffixes[0]}, got {path}")
    if path.is_dir():
        raise ValueError(f"{argument}: expected the name of a file, {path} is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"{argument}: expected a place in a folder that is there, {path.parent} is none; create it")
