"""The steps of `make gpu`: commands with a limit, their log, what they leave undone, and the files of results."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import torch

from . import __main__ as command
from . import gpu_tests, results

RESTART = 30  # seconds that a process of tests needs to be worth its start
STOPPED = (124, 137, -9)  # what `timeout` returns where it ended a command


@dataclass(frozen=True)
class Results:
    """A folder of results, and what they are true of."""

    folder: Path
    machine: results.Machine

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.machine.slug}{suffix}.csv"

    def read(self, suffix: str) -> list[dict[str, str]]:
        if not self.path(suffix).exists():
            return []
        with self.path(suffix).open(newline="") as file:
            return list(csv.DictReader(file))

    def write(self, suffix: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Writes rows of the same columns, each behind what is true of all."""
        with self.path(suffix).open("w", newline="") as file:
            writer = csv.DictWriter(file, [*vars(self.machine), *rows[0]], lineterminator="\n")
            writer.writeheader()
            writer.writerows({**vars(self.machine), **row} for row in rows)


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        left: Names of what it has not done.
        output: Of its commands.
    """

    status: str
    seconds: float
    left: Sequence[str] = ()
    output: str = ""

    @property
    def last_line(self) -> str:
        return self.output.strip().rpartition("\n")[2][:120]


@dataclass(frozen=True)
class Step:
    """A command with a limit in seconds; "python" is this one, "{folder}" the results', "{tests}" the tests' file."""

    name: str
    command: Sequence[str]
    limit: float
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, results: Results) -> Outcome:
        command = self.command_for(results)
        if shutil.which(command[0]) is None:
            return Outcome("left out", 0.0, output=f"{command[0]} is not installed")
        begun, start = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.monotonic()
        status, output = call(command, self.limit, self.environment, results.folder / "log.txt")
        return Outcome(status, time.monotonic() - start, self.left(results, begun), output)

    def command_for(self, results: Results) -> list[str]:
        names = {"folder": results.folder, "tests": results.path("-tests")}
        return [sys.executable if word == "python" else word.format(**names) for word in self.command]

    def left(self, results: Results, begun: str) -> list[str]:
        """What was not done since a time, where that can be said."""
        return []


class BenchStep(Step):
    """A run of `python -m bench`."""

    def left(self, results: Results, begun: str) -> list[str]:
        """The cases that lack the row of a variant; one that is incorrect has a row of none."""
        _, _, _, *options = self.command_for(results)
        try:
            wanted = command.parse(options).chosen
        except SystemExit:  # its options mean no case here, as it said itself
            return []
        found: dict[tuple[str, str], set[str]] = {}
        for row in results.read(""):
            if row["date"] >= begun:
                name = f"{row['variant']} {row['dtype']}".strip()
                found.setdefault((row["suite"], row["case"]), set()).add(name)
        left = []
        for suite, case in wanted:
            names = found.get((suite, case.name), set())
            if "" not in names and not names.issuperset(case.names):
                left.append(f"{suite} {case.name}")
        return left


class SuiteStep(Step):
    """Tests, gone on with in another process where one has crashed; see gpu_tests.py."""

    def run(self, results: Results) -> Outcome:
        path, start, output = results.path("-tests"), time.monotonic(), ""
        path.unlink(missing_ok=True)
        before: list[str] | None = None
        while True:
            remaining = self.limit - (time.monotonic() - start)
            status, text = call(self.command_for(results), remaining, self.environment, results.folder / "log.txt")
            gpu_tests.settle(path, gpu_tests.NOT_RUN if status.startswith("stopped") else gpu_tests.CRASHED)
            left, output = gpu_tests.left(path), output + text
            if not left or left == before or self.limit - (time.monotonic() - start) < RESTART:
                break
            before = left
        rows = list(gpu_tests.read(path).values())
        counts = Counter(row["status"] for row in rows)
        if rows:
            results.write("-tests", rows)
            ended = counts.keys() - {gpu_tests.NOT_RUN}
            status = "failed" if ended - {"passed", "skipped"} else status if left else "ok"
        summary = ", ".join(f"{count} {name}" for name, count in counts.items()) or f"none was collected: {status}"
        return Outcome(status, time.monotonic() - start, left, f"{output.rstrip()}\n{summary}")


def call(command: Sequence[str], seconds: float, environment: Mapping[str, str], log: Path) -> tuple[str, str]:
    """Runs a command for so long at most; how it and what it started ended, and its output, which the log has too."""
    begin = log.stat().st_size if log.exists() else 0
    own = {"PYTHONPATH": str(results.ROOT), "PYTHONUNBUFFERED": "1", "PERCEPTUAL_OPS_CUDA_ARCHS": architectures()}
    with log.open("a") as file:
        limited = ["timeout", "--kill-after=5", f"{max(seconds, 1):.0f}", *command]  # 0 would be no limit
        variables = {**os.environ, **own, **environment}
        result = subprocess.run(limited, cwd=results.ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT)
    with log.open("rb") as file:
        file.seek(begin)
        output = file.read().decode(errors="replace")
    if result.returncode in STOPPED:
        return f"stopped at {seconds:.0f} s", output
    return f"failed ({result.returncode})" if result.returncode else "ok", output


def architectures() -> str:
    """Those of the GPUs at hand, as the build takes them."""
    found = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return ",".join(f"{major}{minor}" for major, minor in sorted(found))
