"""`python -m bench`: verifies and times the operators on this machine; see NOTES.md for how to read the figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from . import report, roofline, timing
from .cases import Case, catalogue
from .rivals import VARIANTS, calls, verify


def variant_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = ", ".join(name for name in names if name not in VARIANTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(VARIANTS)}, got {unknown}")
    return names


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__.partition(";")[0] if __doc__ else None)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default, help="default here: %(default)s")
    parser.add_argument("--out", type=Path, default=report.ROOT / "bench/results", help="folder of the CSV")
    parser.add_argument("--only", nargs="+", default=[""], metavar="PART", help="cases by parts of 'name dtype layout'")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="time to spend on each variant (default %(default)s)"
    )
    parser.add_argument("--variants", type=variant_names, default=list(VARIANTS), help=f"default {','.join(VARIANTS)}")
    options = parser.parse_args(arguments)
    cases = catalogue(options.device)
    options.cases = [case for case in cases if any(part in " ".join(case.key) for part in options.only)]
    if not options.cases:
        parser.error(f"--only: no case contains {' or '.join(map(repr, options.only))}")
    return options


def ceilings_by_dtype(
    cases: Sequence[Case], cache: timing.ColdCache, seconds: float
) -> dict[torch.dtype, roofline.Ceilings]:
    """The device's ceilings for every dtype of the cases."""
    bandwidth = roofline.copy_bandwidth(cache, seconds)
    dtypes = dict.fromkeys(case.images.dtype for case in cases)
    return {dtype: roofline.Ceilings(bandwidth, roofline.matmul_rate(dtype, cache, seconds)) for dtype in dtypes}


def run_case(
    case: Case, variants: Sequence[str], ceilings: roofline.Ceilings, cache: timing.ColdCache, seconds: float
) -> report.Outcome:
    """Verifies a case against the reference, then times it; what is incorrect is not timed, and ours alone ends it."""
    torch.compiler.reset()  # a function is recompiled for a few shapes only
    problem = case.problem(cache.device)
    rivals = calls(problem, variants)
    wrong = verify(problem, rivals)
    outcome = report.Outcome(case, problem.cost, ceilings, wrong.get("reference") or wrong.get("ours", ""))
    if outcome.problem:
        return outcome
    rivals = {name: call for name, call in rivals.items() if name not in wrong}
    before = timing.CpuTime.now(cache.device)
    timings = timing.measure(rivals, cache, seconds)
    others = timing.used_by_others(before, timing.CpuTime.now(cache.device))
    peaks = {name: timing.extra_peak_memory(call, cache.device) for name, call in rivals.items()}
    return replace(outcome, wrong_rivals=wrong, timings=timings, peaks=peaks, others=others)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks and returns the exit code: 1 where ours is incorrect."""
    options = parse(arguments)
    cache = timing.ColdCache(torch.device(options.device))
    machine = report.this_machine(cache.device)
    ceilings = ceilings_by_dtype(options.cases, cache, options.seconds)
    path = options.out / f"{machine.slug}.csv"
    known = [case.key for case in catalogue(options.device)]
    outcomes: list[report.Outcome] = []
    for case in options.cases:
        print(f"{' '.join(case.key)} ...", file=sys.stderr, flush=True)
        outcome = run_case(case, options.variants, ceilings[case.images.dtype], cache, options.seconds)
        outcomes.append(outcome)
        report.write_csv(path, report.rows(machine, outcome), known)
    print(f"\n{report.describe(machine, ceilings)}\n{path}\n")
    print(report.table(outcomes))
    return 1 if any(outcome.problem for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
