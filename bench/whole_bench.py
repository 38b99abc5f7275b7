"""Runs a bench of whole losses: verifies and times its cases on this machine, and measures their memory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from . import plain_form, report, timing, whole_report
from .memory import Peak, in_fresh_process, peak
from .whole_case import Case, verify, without_tf32


@dataclass(frozen=True)
class Bench:
    """A bench.

    Attributes:
        module: What `python -m` runs.
        suffix: Of the CSV's name.
        cases: By device type.
        rivals: Variants that times are compared with.
        peers: Heading of the share of memory, such as "of eager's".
        notes: Lines below the table, from outcomes and the device type.
    """

    module: str
    description: str
    suffix: str
    cases: Mapping[str, Sequence[Case]]
    rivals: Sequence[str]
    peers: str
    notes: Callable[[Sequence[whole_report.Outcome], str], list[str]]


def parse(bench: Bench, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"python -m {bench.module}", description=bench.description)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default, help="default here: %(default)s")
    parser.add_argument("--out", type=Path, default=report.ROOT / "bench/results", help="folder of the CSV")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="PART", help="cases by parts of names, such as 4x256"
    )
    parser.add_argument(
        "--variants", nargs="+", default=[""], metavar="PART", help="variants by names or parts of them"
    )
    options = parser.parse_args(arguments)
    cases = [replace(case, names=case.distinct(options.device)) for case in bench.cases[options.device]]
    known = dict.fromkeys(name for case in cases for name in case.names)
    options.cases = []
    for case in cases:
        names = tuple(name for name in case.names if any(is_meant(name, part, known) for part in options.variants))
        if names and any(part in case.name for part in options.only):
            options.cases.append(replace(case, names=names))
    if not options.cases:
        only = " or ".join(map(repr, options.only))
        parser.error(f"--only, --variants: no case contains {only} with any of: {'; '.join(known)}")
    return options


def is_meant(name: str, part: str, known: Container[str]) -> bool:
    """Whether a part of a name means a name; what is a name itself means that one alone."""
    return name == part if part in known else part in name


def memory(case: Case, name: str, device: torch.device) -> Peak:
    return peak(case.call(name, device), device)


def run_case(case: Case, cache: timing.ColdCache) -> whole_report.Outcome:
    """Verifies a case, then times it and measures its memory; without a rival that is incorrect, or not at all."""
    device = cache.device
    torch.compiler.reset()  # a function is recompiled for a few shapes only
    outcome = whole_report.Outcome(case, chunks={name: case.chunk(name, device.type) for name in case.names})
    if case.rounds:
        calls = {name: case.call(name, device) for name in case.names}
        with without_tf32():
            wrong = verify(case, calls)  # which warms the calls up as well
        if problems := [why for name, why in wrong.items() if not case.is_rival(name)]:
            return replace(outcome, problem=problems[0])
        calls = {name: call for name, call in calls.items() if name not in wrong}
        if device.type == "cuda":  # with TF32, which torch allows a GPU's convolutions, they are others
            for call in calls.values():
                call()
        before = timing.CpuTime.now(device)
        timings = timing.take_turns(calls, cache, rounds=case.rounds)
        others = timing.used_by_others(before, timing.CpuTime.now(device))
        outcome = replace(outcome, wrong_rivals=wrong, timings=timings, others=others)
        calls.clear()
    apart = device.type == "cpu"  # the system's account of a process wants a fresh one, CUDA's allocator does not
    peaks = {
        name: in_fresh_process(memory, case, name, device) if apart else memory(case, name, device)
        for name in case.names
        if name not in outcome.wrong_rivals
    }
    return replace(outcome, peaks=peaks)


def run(bench: Bench, arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks and returns the exit code: 1 where ours is incorrect."""
    options = parse(bench, arguments)
    cache = timing.ColdCache(torch.device(options.device))
    machine = report.this_machine(cache.device)
    path = options.out / f"{machine.slug}-{bench.suffix}{plain_form.SUFFIX}.csv"
    known = [(case.name,) for case in bench.cases[options.device]]
    outcomes: list[whole_report.Outcome] = []
    for case in options.cases:
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        outcomes.append(run_case(case, cache))
        rows = whole_report.rows(machine, outcomes[-1])
        report.write_csv(path, rows, known, whole_report.COLUMNS, keys=("case",))
    print(f"\n{machine.device}; torch {machine.torch}; perceptual_ops {machine.library} at {machine.commit}\n{path}\n")
    notes = bench.notes(outcomes, options.device) + plain_form.goals(outcomes)
    print(whole_report.table(outcomes, bench.rivals, bench.peers, notes))
    return 1 if any(outcome.problem for outcome in outcomes) else 0
