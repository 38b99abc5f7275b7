"""`make bench`: verifies and times this library and its rivals on this machine, and measures their memory.

README.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Container, Sequence
from pathlib import Path

import torch

from . import console, results, roofline
from .case import Case
from .runner import Outcome, Plan, chosen, run_case
from .suites import suites
from .timing import ColdCache

CEILING_SECONDS = 0.5  # to measure a ceiling of the roofline


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description="This library against its rivals.")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default, help="default here: %(default)s")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the CSV")
    parser.add_argument("--full", action="store_true", help="all sizes; default: those of a quarter of an hour")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help='cases by parts, such as "loss 4x256"')
    parser.add_argument("--variants", nargs="+", default=[""], metavar="PART", help="variants by names or their parts")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="times beside N processes that take the CPU")
    parser.add_argument("--seconds", type=float, default=1.0, help="on each variant, at least (default %(default)s)")
    options = parser.parse_args(arguments)
    options.cases = [
        (suite.name, case)
        for suite in suites()
        for case in suite.cases[options.device]
        if not options.only or any(part in f"{suite.name} {case.name}" for part in options.only)
    ]
    # What is asked for by name, and is of no quick run, is meant all the same.
    if not options.full and any(case.quick for _, case in options.cases):
        options.cases = [(suite, case) for suite, case in options.cases if case.quick]
    options.chosen = meant(options)
    if not options.chosen:
        only, variants = (" or ".join(map(repr, parts)) for parts in (options.only or [""], options.variants))
        parser.error(f"--only, --variants: no case contains {only} with a variant {variants}")
    return options


def meant(options: argparse.Namespace) -> list[tuple[str, Case]]:
    """The cases with the variants that are meant and can be had, by suite."""
    known = {name for _, case in options.cases for name in case.names}

    def is_meant(name: str) -> bool:
        return any(is_part(part, name, known) for part in options.variants)

    device = torch.device(options.device)
    found = [(suite, chosen(case, device, is_meant)) for suite, case in options.cases]
    return [(suite, case) for suite, case in found if case]


def is_part(part: str, name: str, known: Container[str]) -> bool:
    """Whether a part of a name means a name; what is a name itself means that one alone."""
    return name == part if part in known else part in name


def ceilings(cases: Sequence[Case], cache: ColdCache) -> dict[torch.dtype, roofline.Ceilings]:
    """The device's limits, for the dtypes of cases whose cost is known."""
    dtypes = dict.fromkeys(case.variant(case.names[0]).dtype for case in cases if case.cost)
    bandwidth = roofline.copy_bandwidth(cache, CEILING_SECONDS) if dtypes else 0.0
    rates = {dtype: roofline.matmul_rate(dtype, cache, CEILING_SECONDS) for dtype in dtypes}
    return {dtype: roofline.Ceilings(bandwidth, rate) for dtype, rate in rates.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks and returns the exit code: 1 where ours is incorrect."""
    options = parse(arguments)
    plan = Plan(torch.device(options.device), options.seconds, options.busy)
    cache = ColdCache(plan.device)
    machine = results.this_machine(plan.device)
    keys = results.KEYS if options.variants == [""] else results.KEYS_OF_VARIANT
    limits = ceilings([case for _, case in options.chosen], cache)
    path, start = options.out / f"{machine.slug}.csv", time.monotonic()
    known = [(suite.name, case.name) for suite in suites() for case in suite.cases[options.device]]
    outcomes: list[Outcome] = []
    for suite, case in options.chosen:
        print(f"{time.monotonic() - start:5.0f} s  {suite} {case.name} ...", file=sys.stderr, flush=True)
        limit = limits.get(case.variant(case.names[0]).dtype)
        outcomes.append(run_case(suite, case, plan, cache, limit))
        results.update(path, outcomes[-1].rows(machine), known, keys)
    print(f"\n{machine}\n{path}\n")
    print(console.report(outcomes, [case for _, case in options.cases]))
    return 1 if any(outcome.problem for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
