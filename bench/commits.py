"""`python -m bench.commits COMMIT`: this tree's losses against those of another commit: times, and whether bits agree.

README.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import commit_worker, console, results
from .timing import Timing, ratio

ROUNDS, WARM_UP = 15, 2
SIDE = 128  # of the images
BUILD = results.ROOT / "build" / "commits"
LIBRARY = "perceptual_ops/_C.so"
SOURCES = ("csrc", "cmake", "CMakeLists.txt", "setup.py")
SUITE = "commits"


@dataclass(frozen=True)
class Outcome:
    """One case.

    Attributes:
        ratio: Of the other tree's time to ours, of two calls in a row.
        ours, other: Seconds of a call.
        bits: Whether all values and gradients agree to the last bit.
    """

    case: str
    ratio: Timing
    ours: Timing
    other: Timing
    bits: bool


@dataclass
class Samples:
    seconds: list[float] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)


class Worker:
    """A process with the losses of one tree."""

    def __init__(self, tree: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(tree)}
        command = [sys.executable, commit_worker.__file__, str(SIDE)]
        self.process = subprocess.Popen(
            command, env=environment, cwd=tree, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if (imported := self._answer()) != str(tree):
            raise RuntimeError(f"expected the losses of {tree}, got those of {imported}")

    def _answer(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().rstrip("\n")
        if not answer:
            raise RuntimeError(f"a worker ended with code {self.process.wait()}: its error is above")
        return answer

    def call(self, case: str, samples: Samples) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        seconds, digest = self._answer().split()
        samples.seconds.append(float(seconds))
        samples.digests.add(digest)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # closes its input, which ends it


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(results.ROOT), *arguments], stdout=subprocess.PIPE, check=True).stdout


def tree_of(commit: str) -> Path:
    """A folder with the files of a commit and its compiled library, kept for the next run."""
    digits = git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()[:12]
    folder = BUILD / digits
    library = folder / LIBRARY
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(git("archive", digits))) as archive:
            archive.extractall(folder, filter="data")
        if git("diff", "--name-only", digits, "--", *SOURCES):
            environment = os.environ | {"PERCEPTUAL_OPS_CUDA_ARCHS": "none"}
            command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            subprocess.run(command, cwd=folder, env=environment, check=True)
        else:
            shutil.copy2(results.ROOT / LIBRARY, library)
    return folder


def compare(case: str, ours: Worker, other: Worker) -> Outcome:
    """Times a case in both trees in turn (A B, B A, ...)."""
    sides = (ours, Samples()), (other, Samples())
    for turn in range(WARM_UP + ROUNDS):
        for worker, samples in sides if turn % 2 else reversed(sides):
            worker.call(case, samples)
    mine, theirs = (samples.seconds[WARM_UP:] for _, samples in sides)
    digests = set.union(*(samples.digests for _, samples in sides))
    return Outcome(case, ratio(theirs, mine), Timing.of(mine), Timing.of(theirs), len(digests) == 1)


def rows(machine: results.Machine, other: str, outcome: Outcome) -> list[results.Row]:
    """Of this tree and of the other, whose variant is its commit."""
    loss, dtype = outcome.case.split()
    size = f"{commit_worker.BATCH}x{SIDE}x{SIDE}"
    common = {"suite": SUITE, "case": f"{loss} {size} {dtype}", "dtype": dtype, "busy": "0", **vars(machine)}
    common |= {"status": "same bits" if outcome.bits else "other bits", "clock": "wall", "versus": f"ours {dtype}"}
    found = []
    for variant, timing in (("ours", outcome.ours), (other, outcome.other)):
        figures = {"median_ms": timing.median, "p20_ms": timing.low, "p80_ms": timing.high}
        row = {name: results.number(1e3 * value) for name, value in figures.items()}
        found.append(common | row | {"variant": variant, "count": str(timing.count)})
    ratio = outcome.ratio
    figures = {"ratio": ratio.median, "ratio_p20": ratio.low, "ratio_p80": ratio.high}
    found[-1] |= {name: results.number(value) for name, value in figures.items()}
    return found


def line(outcome: Outcome) -> list[str]:
    times = [f"{1e3 * timing.median:.1f}" for timing in (outcome.ours, outcome.other)]
    return [outcome.case, "same" if outcome.bits else "other", *times, console.spread(outcome.ratio, mark="x")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares and returns the exit code: 1 where bits differ."""
    parser = argparse.ArgumentParser(
        "python -m bench.commits", description="Losses of this tree and of another commit."
    )
    parser.add_argument("commit", help="such as HEAD~10 or 46f2975")
    parser.add_argument("--out", type=Path, default=results.ROOT / "bench/results", help="folder of the CSV")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help=f"cases: {', '.join(commit_worker.CASES)}")
    options = parser.parse_args(arguments)
    cases = [case for case in commit_worker.CASES if options.only in case]
    if not cases:
        parser.error(f"--only: no case contains {options.only!r}")
    folder = tree_of(options.commit)
    with Worker(results.ROOT) as ours, Worker(folder) as other:
        outcomes = [compare(case, ours, other) for case in cases]
    machine = results.this_machine(torch.device("cpu"))
    path = options.out / f"{machine.slug}.csv"
    made = [row for outcome in outcomes for row in rows(machine, folder.name, outcome)]
    results.update(path, made, [(SUITE, row["case"]) for row in made])
    print(f"{machine} against {folder.name}\n{path}\n")
    headings = ["case", "bits", "ms", "other's ms", "other's of ours [20-80 %]"]
    print("\n".join(console.aligned([headings, *map(line, outcomes)], left=2)))
    return 0 if all(outcome.bits for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
