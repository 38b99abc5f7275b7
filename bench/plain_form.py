"""What the library in plain PyTorch (PERCEPTUAL_OPS_NATIVE=0) is to reach beside eager autograd."""

from __future__ import annotations

from collections.abc import Sequence

from perceptual_ops._native import native

from .whole_report import Outcome

SUFFIX = "" if native.loaded else "-plain"  # of a CSV's name
PARTS = {4: 8, 16: 25}  # memory as a part of the peer's, by images
TIME = 1.1  # over the peer's
VARIANT = "ours fp32"


def goals(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each case that has a goal; none for the compiled library."""
    found = []
    for outcome in outcomes if SUFFIX else ():
        case, peaks, timings = outcome.case, outcome.peaks, outcome.timings
        if case.batch not in PARTS or not {case.peer, VARIANT} <= peaks.keys() or not timings:
            continue
        parts = peaks[case.peer].allocated / peaks[VARIANT].allocated
        ratio = timings[VARIANT].median / timings[case.peer].median
        verdict = "reached" if parts >= PARTS[case.batch] and ratio <= TIME else "missed"
        wanted = f"1/{PARTS[case.batch]} and {TIME} are wanted"
        found.append(
            f"goal {verdict}: {case.name} in plain PyTorch: 1/{parts:.3g} of {case.peer}'s memory and {ratio:.2f} "
            f"times its time; {wanted}"
        )
    return found
