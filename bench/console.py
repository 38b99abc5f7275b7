"""The report at the end of a run: tables to read, and what is not to be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import peers
from .case import BF16, Case
from .memory import Peak
from .results import DISTURBED, number
from .runner import Outcome, has_bf16
from .timing import Timing

HEADINGS = ("case", "variant", "chunk", "ms [20-80 %]", "of ours [20-80 %]", "allocated MB", "resident MB", "of floor")
LEFT = 2  # columns of words


def aligned(lines: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of cells with the columns aligned, so many of them at the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        words = [cell.ljust(width) for cell, width in zip(line[:left], widths[:left], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(line[left:], widths[left:], strict=True)]
        text.append("  ".join([*words, *numbers]).rstrip())
    return text


def spread(timing: Timing | None, unit: float = 1.0, mark: str = "") -> str:
    if timing is None:
        return ""
    low, median, high = (f"{unit * value:.3g}" for value in (timing.low, timing.median, timing.high))
    return f"{median}{mark} [{low}-{high}]"


def lines(outcome: Outcome) -> Iterator[list[str]]:
    """Of a case."""
    case = outcome.case
    if outcome.problem:
        yield [outcome.name, "incorrect", *[""] * (len(HEADINGS) - 2)]
        return
    for name in case.names:
        if name in outcome.wrong:
            yield [outcome.name, name, "", "incorrect", *[""] * (len(HEADINGS) - 4)]
            continue
        timing, peak = outcome.timing(name), outcome.peaks.get(name, Peak(0))
        ratio = outcome.ratio(name) if name != case.versus(name) else None
        chunk = case.chunk(name, outcome.plan.device.type)
        yield [
            *(outcome.name, name, "" if chunk is None else str(chunk)),
            *(spread(timing, 1e3), spread(ratio, mark="x")),
            *(number(size / 1e6) if size else "" for size in (peak.allocated, peak.resident)),
            f"{outcome.floor / timing.median:.0%}" if outcome.floor and timing else "",
        ]


def slower(outcome: Outcome) -> Iterator[str]:
    """The variants that take less time than ours in the same dtype."""
    for name in outcome.samples:
        ratio, variant = outcome.ratio(name), outcome.case.variant(name)
        if ratio and ratio.median < 1 and not variant.is_ours and variant.is_same:
            yield f"not the fastest: {outcome.name}: {name} takes {ratio.median:.2f} of the time of ours"


def left_out(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence for each package that is missed, and for bf16."""
    packages = [getattr(case, "package", "") for case in cases]
    packages += [case.variant(name).package for case in cases for name in case.names]
    found = [reason for package in dict.fromkeys(packages) if (reason := peers.missing(package))]
    wants_bf16 = any(case.variant(name).dtype == BF16 for case in cases for name in case.names)
    if outcomes and wants_bf16 and not has_bf16(outcomes[0].plan.device):
        found.append("bf16 is left out: this CPU has no products of it")
    return found


def report(outcomes: Sequence[Outcome], cases: Sequence[Case]) -> str:
    """Tables, and below them what ours is slower than, what is incorrect, disturbed and left out.

    Args:
        cases: As they were before anything was left out.
    """
    text: list[str] = []
    for suite in dict.fromkeys(outcome.suite for outcome in outcomes):
        rows = [line for outcome in outcomes if outcome.suite == suite for line in lines(outcome)]
        text += [*aligned([HEADINGS, *rows], LEFT), ""]
    for outcome in outcomes:
        text += slower(outcome)
        if outcome.problem:
            text.append(f"incorrect: {outcome.name}: {outcome.problem}")
        else:
            text += [f"incorrect: {outcome.name}: {name} {why}" for name, why in outcome.wrong.items()]
        if (outcome.others or 0.0) > DISTURBED and not outcome.plan.busy:
            text.append(f"disturbed: {outcome.name}: other processes took {outcome.others:.0%} of the CPU")
    return "\n".join(text + left_out(cases, outcomes))
