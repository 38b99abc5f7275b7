"""Who else is at work on the CPU: how much others take, and processes that take it on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

# Until the process that wanted it is gone, however that ended.
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but take the CPU."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class CpuTime:
    """CPU seconds, of all cores: that went by, that were used, that this process used."""

    total: float
    used: float
    own: float

    @classmethod
    def now(cls, device: torch.device) -> CpuTime | None:
        """None where the CPU is not the device that is timed, or the system keeps no such account in /proc."""
        if device.type != "cpu":
            return None
        try:
            ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
        except OSError:
            return None
        _user, _nice, _system, idle, waiting, *_ = ticks
        second, own = os.sysconf("SC_CLK_TCK"), os.times()
        return cls(sum(ticks) / second, (sum(ticks) - idle - waiting) / second, own.user + own.system)


def used_by_others(before: CpuTime | None, after: CpuTime | None) -> float | None:
    """Share (0 to 1) of the machine's CPU time that other processes took meanwhile; None where it is not known."""
    if before is None or after is None or after.total == before.total:
        return None
    others = (after.used - before.used) - (after.own - before.own)
    return max(0.0, others / (after.total - before.total))
