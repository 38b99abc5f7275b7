"""`python -m bench.engine`: verifies and times losses over any module, and measures their memory by chunk size.

See NOTES.md for how to read the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from . import peers
from .engine_cases import CASES, CHUNKED, NETWORKS, RIVALS, SQUEEZE, VARIANTS, EngineCase, own_loss
from .whole_bench import Bench, run
from .whole_case import error, value_and_gradient, without_tf32
from .whole_report import Outcome

# Memory at chunk 1 as a part of the peer's; error of the gradient; time at the best chunk over that of eager, and of
# the package lpips.
PARTS, ERROR, TIME, TIME_OF_LPIPS = 8, 1e-6, 1.05, 1.0


def gradient_error(case: EngineCase, device: torch.device) -> float:
    """How far the gradient of two images, one at a time, is off that of ordinary autograd, one at a time."""
    pair = replace(case, batch=2)
    gradients = []
    for engine in ("lean", "autograd"):
        output, target = pair.images((2, 2), torch.contiguous_format, device)
        loss = own_loss(case.network, engine=engine, chunk_size=1).to(device)
        gradients.append(value_and_gradient(lambda *images, loss=loss: loss(*images).mean(), output, target)()[1])
    return error(*gradients)


def verdict(reached: bool) -> str:
    return "reached" if reached else "missed"


def goals(outcome: Outcome, device: torch.device) -> list[str]:
    """What of the goals a case reaches and misses."""
    case, timings, peaks = outcome.case, outcome.timings, outcome.peaks
    if not isinstance(case, EngineCase) or outcome.problem:
        return []
    with without_tf32():
        off = gradient_error(case, device)
    text = [f"goal {verdict(off <= ERROR)}: {case.name}: gradient is {off:.1e} off autograd's, {ERROR:g} is allowed"]
    if {case.peer, CHUNKED[0]} <= peaks.keys():
        parts = peaks[case.peer].allocated / peaks[CHUNKED[0]].allocated
        found = f"memory at chunk 1 is 1/{parts:.3g} of {case.peer}'s, 1/{PARTS} is wanted"
        text.append(f"goal {verdict(parts >= PARTS)}: {case.name}: {found}")
    chunked = [name for name in CHUNKED if name in timings]
    rival, wanted = case.peer, TIME_OF_LPIPS if case.network == SQUEEZE else TIME
    if chunked and rival in timings:
        best = min(chunked, key=lambda name: timings[name].median)
        ratio = timings[best].median / timings[rival].median
        found = f"{best} takes {ratio:.3f} of {rival}'s time, {wanted:g} at most is wanted"
        text.append(f"goal {verdict(ratio <= wanted)}: {case.name}: {found}")
    return text


def notes(outcomes: Sequence[Outcome], device_type: str) -> list[str]:
    """The goals, and which packages are not installed."""
    packages = [network.package for network in NETWORKS.values()] + [variant.package for variant in VARIANTS.values()]
    absent = [peers.missing(package) for package in dict.fromkeys(packages)]
    found = [line for outcome in outcomes for line in goals(outcome, torch.device(device_type))]
    return found + [reason for reason in absent if reason]


def bench() -> Bench:
    description = "Losses over any module, chunk by chunk, against the same by autograd."
    return Bench("bench.engine", description, "engine", CASES, RIVALS, "of the peer's", notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks and returns the exit code: 1 where a case is incorrect."""
    return run(bench(), arguments)


if __name__ == "__main__":
    sys.exit(main())
