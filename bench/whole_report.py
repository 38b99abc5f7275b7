"""Benches of whole losses: the results of a run as a table to read and as CSV rows to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .memory import Peak
from .report import DISTURBED, Machine, aligned, optional
from .timing import Timing
from .whole_case import Case

COLUMNS = (
    *("time", "device", "threads", "torch", "library", "commit", "case", "variant", "chunk", "status"),
    *("median_ms", "low_ms", "high_ms", "count", "others_cpu", "allocated_mb", "resident_mb"),
)


@dataclass(frozen=True)
class Outcome:
    """One case.

    Attributes:
        problem: Why ours, or the reference, is incorrect; empty where they are not.
        wrong_rivals: What is wrong with a rival that is neither timed nor measured, by variant.
        chunks: Samples that go through the trunk at a time, by variant.
        timings, peaks: By variant; timings are empty where only memory is wanted.
        others: Share of the CPU that other processes took while it was timed.
    """

    case: Case
    problem: str = ""
    wrong_rivals: dict[str, str] = field(default_factory=dict)
    chunks: dict[str, int] = field(default_factory=dict)
    timings: dict[str, Timing] = field(default_factory=dict)
    peaks: dict[str, Peak] = field(default_factory=dict)
    others: float | None = None


def megabytes(number: int | None) -> float | None:
    return None if number is None else number / 1e6


def rows(machine: Machine, outcome: Outcome) -> list[dict[str, str]]:
    """CSV rows of a case: one for each variant, or a single one without figures where ours is incorrect."""
    common = dict.fromkeys(COLUMNS, "") | {name: str(value) for name, value in vars(machine).items()}
    common["case"] = outcome.case.name
    if outcome.problem:
        return [common | {"status": f"incorrect: {outcome.problem}"}]
    table = []
    for variant, peak in outcome.peaks.items():
        row = common | {"variant": variant, "chunk": str(outcome.chunks[variant]), "status": "passed"}
        if timing := outcome.timings.get(variant):
            row |= {f"{name}_ms": f"{1e3 * getattr(timing, name):.4g}" for name in ("median", "low", "high")}
            row |= {"count": str(timing.count), "others_cpu": optional(outcome.others)}
        row["allocated_mb"] = optional(megabytes(peak.allocated))
        row["resident_mb"] = optional(megabytes(peak.resident))
        table.append(row)
    wrong = outcome.wrong_rivals.items()
    return table + [common | {"variant": variant, "status": f"incorrect: {why}"} for variant, why in wrong]


def share(own: int | None, of: int | None) -> str:
    """Such as "1/12.3"; empty where either is not known."""
    return f"1/{of / own:.3g}" if own and of else ""


def headings(rivals: Sequence[str], peers: str) -> list[str]:
    """`peers`: whose memory that of others is a share of, such as "of eager's"."""
    times = ("s [20-80 %]", "s/megapixel", *(f"vs {name}" for name in rivals))
    return ["case", "variant", "chunk", *times, "allocated MB", peers, "resident MB", peers]


def cells(outcome: Outcome, rivals: Sequence[str]) -> list[list[str]]:
    """The lines of a case."""
    case, timings = outcome.case, outcome.timings
    empty = [""] * (len(headings(rivals, "")) - 3)
    if outcome.problem:
        return [[case.name, "incorrect", "", *empty]]
    whole, lines = outcome.peaks.get(case.peer, Peak(0)), []
    for variant, peak in outcome.peaks.items():
        timing, times = timings.get(variant), [""] * (2 + len(rivals))
        if timing:
            ratios = [f"{timings[name].median / timing.median:.2f}x" if name in timings else "" for name in rivals]
            seconds = f"{timing.median:.3g} [{timing.low:.3g}-{timing.high:.3g}]"
            times = [seconds, f"{timing.median / case.megapixels:.3g}", *ratios]
        memory = [optional(megabytes(peak.allocated)), share(peak.allocated, whole.allocated)]
        memory += [optional(megabytes(peak.resident)), share(peak.resident, whole.resident)]
        lines.append([case.name, variant, str(outcome.chunks[variant]), *times, *memory])
    return lines + [[case.name, variant, "", "incorrect", *empty[1:]] for variant in outcome.wrong_rivals]


def table(outcomes: Sequence[Outcome], rivals: Sequence[str], peers: str, notes: Sequence[str] = ()) -> str:
    """The aligned table, and below it the notes, what is incorrect and what is not to be trusted."""
    lines = [line for outcome in outcomes for line in cells(outcome, rivals)]
    text = aligned([headings(rivals, peers), *lines], left=2)
    text += notes
    text += [
        f"incorrect: {outcome.case.name}: {why}"
        for outcome in outcomes
        for why in (outcome.problem, *outcome.wrong_rivals.values())
        if why
    ]
    text += [
        f"disturbed: {outcome.case.name}: other processes took {outcome.others:.0%} of the CPU"
        for outcome in outcomes
        if (outcome.others or 0.0) > DISTURBED
    ]
    return "\n".join(text)


def linearity(outcomes: Sequence[Outcome]) -> list[str]:
    """For each of our variants with the default chunk, how far time per megapixel differs over sizes of one image."""
    text = []
    for variant in ("ours fp32", "ours bf16"):
        found = {
            outcome.case.height: outcome.timings[variant].median / outcome.case.megapixels
            for outcome in outcomes
            if outcome.case.batch == 1 and variant in outcome.timings  # squares all
        }
        if len(found) > 1:
            figures = ", ".join(f"{size}: {found[size]:.3g}" for size in sorted(found))
            spread = max(found.values()) / min(found.values()) - 1
            text.append(f"linear: {variant}: s per megapixel by side of the image: {figures}; {spread:.0%} apart")
    return text
