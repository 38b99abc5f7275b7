"""The results of a run as a table to read and as CSV rows to keep."""

from __future__ import annotations

import csv
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import torch

import perceptual_ops

from .cases import Case
from .rivals import VARIANTS
from .roofline import Ceilings, Cost
from .timing import Timing

ROOT = Path(__file__).parent.parent
COLUMNS = (
    *("time", "device", "threads", "torch", "library", "commit", "case", "dtype", "layout", "variant", "status"),
    *("median_ms", "low_ms", "high_ms", "count", "others_cpu", "extra_peak_mb"),
    *("bytes", "flop", "floor_ms", "copy_gb_s", "matmul_gflop_s"),
)
KEYS = ("case", "dtype", "layout")
# Share of the CPU in other hands above which a case is named as disturbed.
DISTURBED = 0.05
HEADINGS = (
    *("case", "dtype", "layout", "ours ms [20-80 %]", "eager ms [20-80 %]", "compiled ms [20-80 %]"),
    *("vs eager", "vs compiled", "GB/s", "of copy", "of floor"),
)


@dataclass(frozen=True)
class Machine:
    """What figures are true of; the texts are those of the CSV's columns."""

    device: str
    threads: int
    torch: str
    library: str
    commit: str
    time: str

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")


@dataclass(frozen=True)
class Outcome:
    """One case.

    Attributes:
        problem: Why ours, or the reference, is incorrect; empty where they are not.
        wrong_rivals: What is wrong with a rival that is not timed, by variant.
        timings, peaks: Times and extra peak bytes by variant.
        others: Share of the CPU that other processes took while it was timed.
    """

    case: Case
    cost: Cost
    ceilings: Ceilings
    problem: str = ""
    wrong_rivals: dict[str, str] = field(default_factory=dict)
    timings: dict[str, Timing] = field(default_factory=dict)
    peaks: dict[str, int | None] = field(default_factory=dict)
    others: float | None = None


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


def git_commit() -> str:
    """The commit, with "-dirty" where anything but results differs from it; outside a repository $GIT_COMMIT."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        status = [*git, "status", "--porcelain", "--", ".", ":!bench/results"]
        changes = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GIT_COMMIT", "unknown")
    return commit.stdout.strip() + ("-dirty" if changes.stdout else "")


def this_machine(device: torch.device) -> Machine:
    return Machine(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        library=perceptual_ops.__version__,
        commit=git_commit(),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def optional(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"


def rows(machine: Machine, outcome: Outcome) -> list[dict[str, str]]:
    """CSV rows of a case: one for each variant, or a single one without figures where the case is incorrect."""
    case, cost, ceilings = outcome.case, outcome.cost, outcome.ceilings
    common = {
        **{name: str(value) for name, value in vars(machine).items()},
        **{"case": case.name, "dtype": case.dtype, "layout": case.layout},
        **{"bytes": str(cost.bytes), "flop": str(cost.flop), "floor_ms": f"{1e3 * ceilings.floor(cost):.4g}"},
        **{"copy_gb_s": f"{ceilings.bandwidth / 1e9:.4g}", "matmul_gflop_s": f"{ceilings.flop_rate / 1e9:.4g}"},
    }
    if outcome.problem:
        return [dict.fromkeys(COLUMNS, "") | common | {"status": f"incorrect: {outcome.problem}"}]
    table = []
    for variant, timing in outcome.timings.items():
        peak = outcome.peaks[variant]
        figures = {f"{name}_ms": f"{1e3 * getattr(timing, name):.4g}" for name in ("median", "low", "high")}
        figures |= {"count": str(timing.count), "others_cpu": optional(outcome.others)}
        figures["extra_peak_mb"] = optional(None if peak is None else peak / 1e6)
        table.append(common | figures | {"variant": variant, "status": "passed"})
    empty = dict.fromkeys(COLUMNS, "") | common
    wrong = outcome.wrong_rivals.items()
    return table + [empty | {"variant": variant, "status": f"incorrect: {why}"} for variant, why in wrong]


def write_csv(
    path: Path,
    new: Sequence[dict[str, str]],
    known: Sequence[tuple[str, ...]],
    columns: Sequence[str] = COLUMNS,
    keys: Sequence[str] = KEYS,
) -> None:
    """Puts a run's rows into the file, in the order of the `known` cases; what it had of other known cases stays.

    Args:
        path: The file, which need not exist.
        new: The rows of the run.
        known: The cases, as their values in the `keys` columns.
        columns: Of the file.
        keys: Columns whose values say which case a row is of.
    """

    def key(row: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(row[name] for name in keys)

    table = list(new)
    if path.exists():
        replaced = set(map(key, new))
        with path.open(newline="") as file:
            table += [row for row in csv.DictReader(file) if key(row) in known and key(row) not in replaced]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(table, key=lambda row: known.index(key(row))))


def milliseconds(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return f"{1e3 * timing.median:.3g} [{1e3 * timing.low:.3g}-{1e3 * timing.high:.3g}]"


def cells(outcome: Outcome) -> list[str]:
    """A line of the table."""
    case, timings, ours = outcome.case, outcome.timings, outcome.timings.get("ours")
    times = [("incorrect" if name in outcome.wrong_rivals else milliseconds(timings.get(name))) for name in VARIANTS]
    line = [*case.key, *times]
    if outcome.problem:
        line[3] = "incorrect"
    if ours is None:
        return line + [""] * (len(HEADINGS) - len(line))
    ratios = [f"{timings[name].median / ours.median:.2f}x" if name in timings else "" for name in VARIANTS[1:]]
    speed = outcome.cost.bytes / ours.median
    share = outcome.ceilings.floor(outcome.cost) / ours.median
    return [*line, *ratios, f"{speed / 1e9:.3g}", f"{speed / outcome.ceilings.bandwidth:.0%}", f"{share:.0%}"]


def describe(machine: Machine, ceilings: Mapping[torch.dtype, Ceilings]) -> str:
    """The line above the table: what ran and what bounds it."""
    bandwidth = next(iter(ceilings.values())).bandwidth
    rates = [f"{str(dtype).removeprefix('torch.')} {limit.flop_rate / 1e9:.0f}" for dtype, limit in ceilings.items()]
    return (
        f"{machine.device}; torch {machine.torch}; perceptual_ops {machine.library} at {machine.commit}; "
        f"copy {bandwidth / 1e9:.3g} GB/s; matrix product GFLOP/s: {', '.join(rates)}"
    )


def aligned(lines: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of cells with the columns aligned, so many of them at the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        words = [cell.ljust(width) for cell, width in zip(line[:left], widths[:left], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(line[left:], widths[left:], strict=True)]
        text.append("  ".join([*words, *numbers]).rstrip())
    return text


def table(outcomes: Sequence[Outcome]) -> str:
    """The aligned table, and below it which cases are incorrect and which figures are not to be trusted."""
    text = aligned([HEADINGS, *map(cells, outcomes)], left=3)
    text += [f"incorrect: {' '.join(outcome.case.key)}: {outcome.problem}" for outcome in outcomes if outcome.problem]
    text += [
        f"incorrect: {' '.join(outcome.case.key)}: {why}"
        for outcome in outcomes
        for why in outcome.wrong_rivals.values()
    ]
    text += [
        f"disturbed: {' '.join(outcome.case.key)}: other processes took {outcome.others:.0%} of the CPU"
        for outcome in outcomes
        if (outcome.others or 0.0) > DISTURBED
    ]
    return "\n".join(text)
