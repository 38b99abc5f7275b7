"""What the host execution tests: launches, and what each must give by the policy of tests/maps.py.

Inputs are exact in their dtype and sums run in the accumulation type. So the naive run that bounds the error works in
the accumulation type too: for fp16 and bfloat16 that is much tighter than a naive run in the maps' own dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from host.worker import Launch, Outputs

Check = Callable[[Outputs], None]

# Distances with their parameter.
DISTANCES = {"mse": 0.0, "l1": 0.0, "charbonnier": 0.01, "huber": 0.5}


@dataclass(frozen=True)
class Case:
    """One launch and its check.

    Attributes:
        name: Name for pytest; the first word is the launcher.
        make: Makes the inputs: -> (launch, check of its outputs).
    """

    name: str
    make: Callable[[], tuple[Launch, Check]]


def named(launcher: str, *parts: object) -> str:
    return " ".join([launcher, *(str(part).removeprefix("torch.") for part in parts)])
