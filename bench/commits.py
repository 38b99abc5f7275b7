"""`python -m bench.commits COMMIT`: this tree's losses against those of another commit: times, and whether bits agree.

See NOTES.md for how to read the figures.
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

from . import commit_worker, report
from .timing import Timing

ROUNDS, WARM_UP = 15, 2
SIDE = 128  # of the images
BUILD = report.ROOT / "build" / "commits"
LIBRARY = "perceptual_ops/_C.so"
SOURCES = ("csrc", "cmake", "CMakeLists.txt", "setup.py")
COLUMNS = (
    *("time", "device", "threads", "torch", "library", "commit", "other", "case", "bits"),
    *("ratio", "low", "high", "count", "median_ms", "other_ms"),
)
# Times this tree's time may be of the other's.
GOAL = 1.03


@dataclass(frozen=True)
class Outcome:
    """One case.

    Attributes:
        ratio: Of our time to the other tree's, of two calls in a row.
        ours, others: Seconds of a call.
        bits: Whether all values and gradients agree to the last bit.
    """

    case: str
    ratio: Timing
    ours: Timing
    others: Timing
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
    return subprocess.run(["git", "-C", str(report.ROOT), *arguments], stdout=subprocess.PIPE, check=True).stdout


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
            shutil.copy2(report.ROOT / LIBRARY, library)
    return folder


def compare(case: str, ours: Worker, other: Worker) -> Outcome:
    """Times a case in both trees in turn (A B, B A, ...)."""
    sides = (ours, Samples()), (other, Samples())
    for turn in range(WARM_UP + ROUNDS):
        for worker, samples in sides if turn % 2 else reversed(sides):
            worker.call(case, samples)
    mine, theirs = (samples.seconds[WARM_UP:] for _, samples in sides)
    digests = set.union(*(samples.digests for _, samples in sides))
    ratios = [own / of for own, of in zip(mine, theirs, strict=True)]
    return Outcome(case, Timing.of(ratios), Timing.of(mine), Timing.of(theirs), len(digests) == 1)


def row(machine: report.Machine, other: str, outcome: Outcome) -> dict[str, str]:
    figures = {
        **{name: f"{getattr(outcome.ratio, name):.4g}" for name in ("low", "high")},
        **{"ratio": f"{outcome.ratio.median:.4g}", "count": str(outcome.ratio.count)},
        **{"median_ms": f"{1e3 * outcome.ours.median:.4g}", "other_ms": f"{1e3 * outcome.others.median:.4g}"},
        **{"case": outcome.case, "other": other, "bits": "same" if outcome.bits else "other"},
    }
    return {name: str(value) for name, value in vars(machine).items()} | figures


def line(outcome: Outcome) -> list[str]:
    ratio = outcome.ratio
    verdict = "goal reached" if ratio.median <= GOAL else f"goal missed: {GOAL:g} at most"
    spread = f"{ratio.median:.3f} [{ratio.low:.3f}-{ratio.high:.3f}]"
    times = [f"{1e3 * timing.median:.1f}" for timing in (outcome.ours, outcome.others)]
    return [outcome.case, "same" if outcome.bits else "other", spread, *times, verdict]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares and returns the exit code: 1 where bits differ."""
    parser = argparse.ArgumentParser(
        "python -m bench.commits", description="Losses of this tree and of another commit."
    )
    parser.add_argument("commit", help="such as HEAD~10 or 46f2975")
    parser.add_argument("--out", type=Path, default=report.ROOT / "bench/results", help="folder of the CSV")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help=f"cases: {', '.join(commit_worker.CASES)}")
    options = parser.parse_args(arguments)
    cases = [case for case in commit_worker.CASES if options.only in case]
    if not cases:
        parser.error(f"--only: no case contains {options.only!r}")
    folder = tree_of(options.commit)
    with Worker(report.ROOT) as ours, Worker(folder) as other:
        outcomes = [compare(case, ours, other) for case in cases]
    machine = report.this_machine(torch.device("cpu"))
    path = options.out / f"{machine.slug}-commits.csv"
    rows = [row(machine, folder.name, outcome) for outcome in outcomes]
    report.write_csv(path, rows, [(case,) for case in commit_worker.CASES], COLUMNS, keys=("case",))
    print(f"{machine.device}; torch {machine.torch}; {machine.commit} against {folder.name}\n{path}\n")
    headings = ["case", "bits", "time / other's [20-80 %]", "ms", "other's ms", ""]
    print("\n".join(report.aligned([headings, *map(line, outcomes)], left=2)))
    return 0 if all(outcome.bits for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
