"""`python -m bench.metrics`: verifies and times LPIPS and DISTS on this machine, and measures their memory.

See NOTES.md for how to read the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import peers
from .metric_cases import CASES, RIVALS, VARIANTS, MetricCase
from .whole_bench import Bench, run
from .whole_report import Outcome

# What LPIPS-VGG is to reach by the device, whether there is a gradient, and the variant: how many times faster than the
# package lpips, and of how many parts of its extra memory one.
GOALS = {
    ("cpu", True, "ours fp32"): (1.5, 8),
    ("cpu", True, "ours bf16"): (2.5, 15),
    ("cpu", False, "ours fp32"): (1.3, 8),
    ("cuda", True, "ours fp32"): (3, 10),
    ("cuda", True, "ours bf16"): (3, 10),
}


def goals(outcome: Outcome, device_type: str) -> list[str]:
    """What of the goals a case reaches and misses; nothing where lpips was not measured."""
    case, found = outcome.case, []
    if not isinstance(case, MetricCase) or case.metric != "lpips-vgg" or case.peer not in outcome.timings:
        return []
    theirs, whole = outcome.timings[case.peer].median, outcome.peaks[case.peer].allocated
    for variant, timing in outcome.timings.items():
        if goal := GOALS.get((device_type, case.gradient, variant)):
            speed, share = theirs / timing.median, whole / outcome.peaks[variant].allocated
            verdict = "reached" if speed >= goal[0] and share >= goal[1] else "missed"
            wanted = f"{goal[0]:g}x and 1/{goal[1]:g} of lpips are wanted"
            found.append(f"goal {verdict}: {case.name}, {variant}: {speed:.2f}x and 1/{share:.3g}; {wanted}")
    return found


def notes(outcomes: Sequence[Outcome], device_type: str) -> list[str]:
    """The goals, and which peers are not installed."""
    absent = [peers.missing(package) for package in dict.fromkeys(variant.package for variant in VARIANTS.values())]
    return [line for outcome in outcomes for line in goals(outcome, device_type)] + [
        reason for reason in absent if reason
    ]


def bench() -> Bench:
    description = "LPIPS and DISTS against the packages lpips, torchmetrics and DISTS-pytorch."
    return Bench("bench.metrics", description, "metrics", CASES, RIVALS, "of the peer's", notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks and returns the exit code: 1 where a case is incorrect."""
    return run(bench(), arguments)


if __name__ == "__main__":
    sys.exit(main())
