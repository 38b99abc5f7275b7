"""The numbers of every step of a training: a CSV file, and its plot beside it."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ..images import written_whole
from .report import loss_curve

READ_EVERY = 10  # steps: to read a step, the host waits for the device
COUNTS = ("step", "seconds")


class Log:
    """A row of numbers for each step, in a CSV file and as a plot beside it. Of several processes the first writes.

    Args:
        path: Of the CSV file.
        device: Where the numbers come from.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device
        self.first = not dist.is_initialized() or dist.get_rank() == 0
        self.rows: list[dict[str, float]] = []
        self._unread: list[tuple[int, float, dict[str, Tensor]]] = []

    def begin(self, done: int) -> None:
        """Keeps the first `done` rows of a file that is there."""
        if done:
            self.rows = read_log(self.path)[:done]
        spent = self.rows[-1]["seconds"] if self.rows else 0.0
        self._started = time.perf_counter() - spent

    def add(self, step: int, numbers: Mapping[str, Tensor]) -> None:
        """A row: scalars, means over the processes."""
        self._unread.append((step, time.perf_counter() - self._started, dict(numbers)))
        if step == 1 or step % READ_EVERY == 0:
            self._read()

    def write(self) -> None:
        self._read()
        if self.first:
            with written_whole(self.path) as path, path.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.rows[0].keys(), lineterminator="\n")
                writer.writeheader()
                writer.writerows({name: f"{number:.9g}" for name, number in row.items()} for row in self.rows)
            history = {name: [row[name] for row in self.rows] for name in self.rows[0] if name not in COUNTS}
            if find_spec("matplotlib"):
                loss_curve(self.path.with_suffix(".png"), history, self.path.stem, step="step")

    def _read(self) -> None:
        if not self._unread:
            return
        values = torch.stack([torch.stack([*row.values()]).float() for _, _, row in self._unread])
        if dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        for (step, seconds, row), numbers in zip(self._unread, values.tolist(), strict=True):
            self.rows.append({"step": step, "seconds": seconds, **dict(zip(row, numbers, strict=True))})
        self._unread.clear()


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, each column -> number."""
    with path.open(newline="") as file:
        return [{name: float(number) for name, number in row.items()} for row in csv.DictReader(file)]
