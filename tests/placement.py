"""Where tests put what they make: the fixture `on_device` runs a test on each device."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

DEVICE = "cpu"

Placed = TypeVar("Placed", bound=Tensor | nn.Module)


def placed(made: Placed) -> Placed:
    """A tensor or a module made on the CPU, on the device of the test. A module itself is moved."""
    return made if DEVICE == "cpu" else made.to(DEVICE)
