"""`python -m examples.paper NAME`: one experiment of Johnson, Alahi and Fei-Fei 2016; each can be stopped and goes on.

style, speed, sr-x4, sr-x8, inversion, levels; report writes docs/paper.md and docs/levels.md from what they found. With
--anew what an experiment found before is measured again; models are kept until build/paper is removed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from . import levels, report, style, super_resolution
from .common import RESULTS

EXPERIMENTS = {
    "style": style.main,
    "speed": style.main_speed,
    "sr-x4": partial(super_resolution.main, 4),
    "sr-x8": partial(super_resolution.main, 8),
    "inversion": levels.inversion,
    "levels": levels.main,
    "report": report.main,
}
FOUND = {"style": "objective"}  # the file of an experiment, where it has another name


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m examples.paper", description=__doc__)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--anew", action="store_true", help="measure again what was measured before")
    options = parser.parse_args(arguments)
    if options.anew:
        (RESULTS / f"{FOUND.get(options.experiment, options.experiment)}.json").unlink(missing_ok=True)
        for file in RESULTS.glob("inverted-*.jpg") if options.experiment == "inversion" else ():
            file.unlink()
    EXPERIMENTS[options.experiment]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
