"""`python -m bench.whole`: verifies and times the whole loss on this machine, and measures its memory.

See NOTES.md for how to read the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .whole_bench import Bench, run
from .whole_cases import CASES, RIVALS
from .whole_report import Outcome, linearity


def notes(outcomes: Sequence[Outcome], device_type: str) -> list[str]:
    return linearity(outcomes)


def bench() -> Bench:
    description = "The whole loss against plain PyTorch."
    return Bench("bench.whole", description, "loss", CASES, RIVALS, "of eager's", notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks and returns the exit code: 1 where a case is incorrect."""
    return run(bench(), arguments)


if __name__ == "__main__":
    sys.exit(main())
