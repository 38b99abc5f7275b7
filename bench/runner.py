"""Runs a case: its variants are verified, timed in turn and their memory is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from . import load, timing
from .case import BF16, SHORT, Agreement, Case, verify, without_tf32
from .memory import Peak, allocated_peak, in_fresh_process, peak
from .results import Machine, Row, number
from .roofline import Ceilings
from .timing import Call, ColdCache, Timing

# Of an x86 CPU that multiplies bf16; others widen each number, and take minutes for what is a second in fp32.
BF16_PRODUCTS = ("avx512_bf16", "amx_bf16")
MORE_ROUNDS = 3  # times as many on a busy machine, where a call's time varies with the scheduler


@dataclass(frozen=True)
class Plan:
    """How a run measures.

    Attributes:
        seconds: On each variant of a case, at least.
        busy: Processes that take the CPU meanwhile; memory is left alone then.
    """

    device: torch.device
    seconds: float = 1.0
    busy: int = 0


@dataclass(frozen=True)
class Outcome:
    """What was found of a case; figures by the variant's name.

    Attributes:
        problem: Why ours, or the reference, is incorrect; empty where they are not.
        agreements: Of those that were verified.
        samples: Seconds, round by round; none where only memory is wanted.
        others: Share of the CPU that other processes took while it was timed.
        floor: Seconds below which no implementation gets; None where it is not known.
    """

    suite: str
    case: Case
    plan: Plan
    problem: str = ""
    agreements: Mapping[str, Agreement] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    peaks: Mapping[str, Peak] = field(default_factory=dict)
    others: float | None = None
    floor: float | None = None

    @property
    def name(self) -> str:
        return f"{self.suite} {self.case.name}"

    @property
    def wrong(self) -> dict[str, str]:
        return {name: found.wrong for name, found in self.agreements.items() if found.wrong}

    def timing(self, name: str) -> Timing | None:
        return Timing.of(self.samples[name]) if name in self.samples else None

    def ratio(self, name: str) -> Timing | None:
        """The variant's time over that of ours in the same dtype, round by round."""
        versus = self.case.versus(name)
        if not {name, versus} <= self.samples.keys():
            return None
        return timing.ratio(self.samples[name], self.samples[versus])

    def rows(self, machine: Machine) -> list[Row]:
        """One for each variant, or a single one without figures where the case is incorrect."""
        common = {"suite": self.suite, "case": self.case.name, "busy": str(self.plan.busy), **vars(machine)}
        if self.problem:
            return [common | {"status": f"incorrect: {self.problem}"}]
        measured = dict.fromkeys((*self.samples, *self.peaks))
        return [common | self._row(name) for name in measured] + [
            common | self._identity(name) | {"status": f"incorrect: {why}"} for name, why in self.wrong.items()
        ]

    def _identity(self, name: str) -> Row:
        variant, chunk = self.case.variant(name), self.case.chunk(name, self.plan.device.type)
        return {"variant": variant.who, "dtype": SHORT[variant.dtype], "chunk": "" if chunk is None else str(chunk)}

    def _row(self, name: str) -> Row:
        row = self._identity(name) | {"status": "passed"}
        row["error"] = "" if (error := self.agreements.get(name, Agreement()).error) is None else f"{error:.1e}"
        if found := self.timing(name):
            row |= {"median_ms": number(1e3 * found.median), "count": str(found.count)}
            row |= {"p20_ms": number(1e3 * found.low), "p80_ms": number(1e3 * found.high)}
            row["clock"] = "cuda" if self.plan.device.type == "cuda" else "wall"
            row["others_cpu"] = number(self.others)
        if ratio := self.ratio(name):
            row |= {"versus": self.case.versus(name), "ratio": number(ratio.median)}
            row |= {"ratio_p20": number(ratio.low), "ratio_p80": number(ratio.high)}
        if memory := self.peaks.get(name):
            row["allocated_mb"] = number(memory.allocated / 1e6)
            row["resident_mb"] = number(None if memory.resident is None else memory.resident / 1e6)
        row["floor_ms"] = number(None if self.floor is None else 1e3 * self.floor)
        return row


def has_bf16(device: torch.device) -> bool:
    if device.type != "cpu":
        return True
    try:
        return any(flag in Path("/proc/cpuinfo").read_text() for flag in BF16_PRODUCTS)
    except OSError:
        return True


def chosen(case: Case, device: torch.device, is_meant: Callable[[str], bool]) -> Case | None:
    """The case with the variants that can be had here and are meant; None without any.

    bf16 is left out where the CPU has no such products.
    """
    names = [name for name in case.available(device.type) if is_meant(name)]
    if not has_bf16(device):
        names = [name for name in names if case.variant(name).dtype != BF16]
    return replace(case, names=tuple(names)) if names else None


def run_case(suite: str, case: Case, plan: Plan, cache: ColdCache, ceilings: Ceilings | None = None) -> Outcome:
    """Verifies a case, then times it and measures its memory; without a rival that is incorrect, or not at all."""
    torch.compiler.reset()  # a function is recompiled for a few shapes only
    outcome = Outcome(suite, case, plan)
    if ceilings and case.cost:
        outcome = replace(outcome, floor=ceilings.floor(case.cost))
    if case.rounds:
        outcome = _timed(outcome, cache)
    if plan.busy or outcome.problem:
        return outcome
    right = [name for name in case.names if name not in outcome.wrong]
    return replace(outcome, peaks={name: _peak(case, name, plan.device) for name in right})


def _timed(outcome: Outcome, cache: ColdCache) -> Outcome:
    case, plan = outcome.case, outcome.plan
    calls = {name: case.call(name, plan.device) for name in case.names}
    with without_tf32():
        outcome = replace(outcome, agreements=verify(case, calls))  # which warms the calls up as well
    for name, why in outcome.wrong.items():
        if name == case.names[0] or case.variant(name).is_ours:
            return replace(outcome, problem=f"{name} {why}")
    calls = {name: call for name, call in calls.items() if name not in outcome.wrong}
    if plan.device.type == "cuda":  # with TF32, which torch allows a GPU's convolutions, they are others
        for call in calls.values():
            call()
    with load.busy(plan.busy):
        before = load.CpuTime.now(plan.device)
        rounds = case.rounds * (MORE_ROUNDS if plan.busy else 1)
        samples = timing.take_turns(calls, cache, plan.seconds, rounds)
        others = load.used_by_others(before, load.CpuTime.now(plan.device))
    return replace(outcome, samples=samples, others=others)


def _peak(case: Case, name: str, device: torch.device) -> Peak:
    if device.type != "cpu":  # CUDA's allocator wants no fresh process
        return peak(case.call(name, device), device)
    if case.fresh:
        return in_fresh_process(_fresh_peak, case, name, device)
    call: Call = case.call(name, device)
    call()
    return Peak(allocated_peak(call))


def _fresh_peak(case: Case, name: str, device: torch.device) -> Peak:
    return peak(case.call(name, device), device, case.warm_up(name, device))
