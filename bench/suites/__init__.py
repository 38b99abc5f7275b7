"""What `make bench` runs, as data: a module for each suite, with its cases and the rival ways to their numbers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..case import Case

NAMES = ("operators", "loss", "metrics", "modules", "adaptive", "clips", "steps", "tiles")


@dataclass(frozen=True)
class Suite:
    """Cases that are timed alike.

    Attributes:
        cases: By the type of the device.
    """

    name: str
    title: str
    cases: Mapping[str, Sequence[Case]]


def suites() -> list[Suite]:
    """All, in the order in which they run: what matters most first, since a run that is cut short keeps what it has."""
    return [importlib.import_module(f".{name}", __name__).SUITE for name in NAMES]
