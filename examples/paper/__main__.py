"""`python -m examples.paper NAME`: one experiment of Johnson, Alahi and Fei-Fei 2016; each can be interrupted and
resumed.

style, objective, speed, sr-x4, sr-x8, inversion, levels, checks; report writes their results into the pages of docs.
sr-x4-0 to sr-x4-2 train the models of one seed, levels-1 to levels-4 those of one block of VGG16, an hour at most each.
Models and measurements stay in build/paper; without that folder everything is run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from . import checks, levels, report, style, super_resolution

EXPERIMENTS = {
    "style": style.model_file,
    "objective": style.main_objective,
    "speed": style.main_speed,
    **{f"sr-x4-{seed}": partial(super_resolution.train, 4, seed) for seed in super_resolution.SEEDS[4]},
    "sr-x4": partial(super_resolution.main, 4),
    "sr-x8": partial(super_resolution.main, 8),
    "inversion": levels.inversion,
    **{f"levels-{block}": partial(levels.train, block) for block in (1, 2, 3, 4)},
    "levels": levels.main,
    "checks": checks.main,
    "report": report.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m examples.paper", description=__doc__)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    EXPERIMENTS[parser.parse_args(arguments).experiment]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
