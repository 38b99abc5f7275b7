"""The table of results: one CSV for each machine, with all that was timed there, and what each row is true of."""

from __future__ import annotations

import csv
import os
import platform
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

import perceptual_ops
from perceptual_ops._native import native

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "bench" / "results"

OF_MACHINE = ("device", "threads", "torch", "library", "form", "commit", "dirty", "date")
# README.md says what each column means.
COLUMNS = (
    *("suite", "case", "variant", "dtype", "chunk", "status"),
    *("median_ms", "p20_ms", "p80_ms", "count", "clock", "versus", "ratio", "ratio_p20", "ratio_p80"),
    *("allocated_mb", "resident_mb", "error", "floor_ms", "busy", "others_cpu", *OF_MACHINE),
)
KEYS = ("suite", "case", "form", "busy")  # of the rows that a run of all variants replaces
KEYS_OF_VARIANT = (*KEYS, "variant", "dtype")
# Share of the CPU in other hands above which a row is disturbed; what `busy` processes take does not count.
DISTURBED = 0.05

Row = dict[str, str]


@dataclass(frozen=True)
class Machine:
    """What figures are true of; the texts are those of the CSV's columns.

    Attributes:
        form: "compiled", or "plain" where the library runs in plain PyTorch.
        commit: Twelve digits; outside a repository $GIT_COMMIT.
        dirty: "yes" where a file of the commit, but for results, is another one here.
        date: In UTC.
    """

    device: str
    threads: str
    torch: str
    library: str
    form: str
    commit: str
    dirty: str
    date: str

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")

    def __str__(self) -> str:
        dirty = " with changes" if self.dirty else ""
        return f"{self.device}; torch {self.torch}; perceptual_ops {self.library}, {self.form}, at {self.commit}{dirty}"


def cpu_name() -> str:
    """Model, instruction sets that decide these timings, and threads."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        info = ""
    found = re.search(r"model name\s*:\s*(.*)", info)
    model = re.sub(r"\((R|TM)\)| CPU| @.*", "", found[1]) if found else platform.processor() or platform.machine()
    sets = torch.backends.cpu.get_cpu_capability() + (", AMX" if "amx_bf16" in info else "")
    return f"{model} ({sets}), {torch.get_num_threads()} threads"


def git(*arguments: str) -> str:
    """What git says of this checkout.

    Raises:
        OSError, subprocess.CalledProcessError: There is no git or no repository, or it fails.
    """
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit_and_changes() -> tuple[str, str]:
    """`Machine.commit` and `Machine.dirty`."""
    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
        return commit, "yes" if changes else ""
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GIT_COMMIT", "unknown"), ""


def this_machine(device: torch.device) -> Machine:
    commit, dirty = commit_and_changes()
    return Machine(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        threads=str(torch.get_num_threads()),
        torch=torch.__version__,
        library=perceptual_ops.__version__,
        form="compiled" if native.loaded else "plain",
        commit=commit,
        dirty=dirty,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def number(value: float | None) -> str:
    """Four digits; empty for None."""
    return "" if value is None else f"{value:.4g}"


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str] = COLUMNS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def update(
    path: Path,
    new: Sequence[Row],
    known: Collection[tuple[str, ...]],
    keys: Sequence[str] = KEYS,
    columns: Sequence[str] = COLUMNS,
) -> None:
    """Puts a run's rows into the file, in the order of the known cases; what it had of others stays.

    Args:
        path: The file, which need not exist.
        new: The rows of the run. They replace the file's that have the same values of `keys`.
        known: The cases, by the first of `keys`. Those of a suite that are not among them are there no longer.
    """
    order = {case: place for place, case in enumerate(known)}
    suites = {case[0] for case in known}

    def key(row: Row) -> tuple[str, ...]:
        return tuple(row.get(name, "") for name in keys)  # a case that is incorrect has no variant

    def place(row: Row) -> int | None:
        return next((order[key(row)[:count]] for count in (1, 2) if key(row)[:count] in order), None)

    replaced = set(map(key, new))
    old = [row for row in (read(path) if path.exists() else []) if key(row) not in replaced]
    of_suites = [row for row in [*old, *new] if place(row) is not None]
    write(path, [*sorted(of_suites, key=place), *(row for row in old if key(row)[0] not in suites)], columns)
