"""The numbers of every step of a training: a CSV file, and its plot beside it."""

from __future__ import annotations

import csv
import io
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from .._failures import reason
from ..files import write_whole
from ..images import SOFTWARE, software_of
from .optimization import DivergenceError
from .report import loss_curve

READ_EVERY = 10  # steps: to read a step, the host waits for the device
COUNTS = ("step", "seconds")
RESTART_HINT = "remove it and the checkpoint to begin anew"
PLOT = f"{SOFTWARE} training log"  # by which a plot is known


class Log:
    """A row of numbers for each step, in a CSV file and as a plot beside it. Of several processes the first writes.

    Args:
        path: Of the CSV file.
        rank, processes: The number of this process, and how many there are.
    """

    def __init__(self, path: Path, rank: int = 0, processes: int = 1) -> None:
        self.path: Path = path
        self.rank: int = rank
        self.processes: int = processes
        self.rows: list[dict[str, float]] = []
        self._unread: list[tuple[int, float, dict[str, Tensor]]] = []
        self._started = time.perf_counter()

    def resume(self, done: int) -> None:
        """Keeps the first `done` rows of the file. ValueError where it has fewer."""
        self.rows = read_log(self.path)[:done] if self.path.exists() else []
        if len(self.rows) < done:
            raise ValueError(
                f"{self.path}: expected a row for each of the {done} steps of the checkpoint, got {len(self.rows)}; "
                f"{RESTART_HINT}"
            )
        self._started -= self.rows[-1]["seconds"]

    def add(self, step: int, numbers: Mapping[str, Tensor]) -> None:
        """A row: scalars, means over the processes. DivergenceError where one that is read is no number."""
        self._unread.append((step, time.perf_counter() - self._started, dict(numbers)))
        if step == 1 or step % READ_EVERY == 0:
            self.read()

    def write(self) -> None:
        self.read()
        if self.rank != 0:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self.rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{number:.9g}" for name, number in row.items()} for row in self.rows)
        write_whole(self.path, text.getvalue().encode())

    def draw(self) -> None:
        """The plot of what was written. Without matplotlib there is none, and a warning says so."""
        history = {name: [row[name] for row in self.rows] for name in self.rows[0] if name not in COUNTS}
        try:
            loss_curve(self.path.with_suffix(".png"), history, self.path.stem, step="step", software=PLOT)
        except ImportError as error:
            warnings.warn(f"no plot of the log: {error}", RuntimeWarning, stacklevel=2)

    def read(self) -> None:
        """Waits for the numbers that are still on the device. DivergenceError where one is none."""
        if not self._unread:
            return
        values = torch.stack([torch.stack([*row.values()]).float() for _, _, row in self._unread])  # (rows, columns)
        if self.processes > 1:
            dist.all_reduce(values)
            values /= self.processes
        for (step, seconds, row), numbers in zip(self._unread, values.tolist(), strict=True):
            if not all(map(math.isfinite, numbers)):
                raise DivergenceError(f"the loss is no number any more at step {step}: try a smaller learning rate")
            found = {"step": step, "seconds": seconds, **dict(zip(row, numbers, strict=True))}
            if self.rows and self.rows[0].keys() != found.keys():
                raise ValueError(
                    f"{self.path}: expected the columns {_listed(found)}, got {_listed(self.rows[0])}; {RESTART_HINT}"
                )
            self.rows.append(found)
        self._unread.clear()


def without_plots(pictures: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The pictures, but the plots that trainings left among them."""
    paths = [Path(path) for path in pictures]
    return [path for path in paths if not (path.name.endswith(".log.png") and path.with_suffix(".csv").exists())]


def is_log(path: Path) -> bool:
    """Whether `read_log` can read it."""
    try:
        read_log(path)
    except ValueError:
        return False
    return True


def is_plot(path: Path) -> bool:
    """Whether it is the plot of a log."""
    try:
        return software_of(path) == PLOT
    except ValueError:
        return False


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, each column -> number. ValueError where the file is none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, strict=True)
            rows = [{name: float(number) for name, number in row.items()} for row in table]
    except (ValueError, TypeError, csv.Error) as error:  # binary, no numbers, lines that are too short or too long
        raise ValueError(
            f"{path}: expected a log of a training, this file is damaged ({reason(error)}); {RESTART_HINT}"
        ) from error
    if not set(COUNTS) <= set(table.fieldnames or ()):
        raise ValueError(f"{path}: expected a log with the columns {_listed(COUNTS)}; {RESTART_HINT}")
    for number, row in enumerate(rows, 1):
        if row["step"] != number or not all(map(math.isfinite, row.values())):
            raise ValueError(
                f"{path}: expected the finite numbers of step {number} in its row {number}; {RESTART_HINT}"
            )
    return rows


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
