"""Peak memory of a call: what the allocator hands out and what the process takes from the system."""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .timing import Call, extra_peak_memory

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Peak:
    """Bytes by which one call raises the peak; its results count.

    Attributes:
        allocated: Of torch's allocator, which libraries such as oneDNN and BLAS pass by with their scratch memory.
        resident: Of the process (CPU): all of it, in whole pages, and what the allocator keeps for the next call too.
            Only what a fresh process says is of use, since an old one has free memory to draw on.
    """

    allocated: int
    resident: int | None = None


def peak(call: Call, device: torch.device, warm_up: Call | None = None) -> Peak:
    """Of a call, which runs twice on the CPU: for the process, and for the allocator, whose account takes memory.

    Args:
        warm_up: What is called before; None: the same.
    """
    (warm_up or call)()
    on_gpu = extra_peak_memory(call, device)
    if on_gpu is not None:
        return Peak(on_gpu)
    resident = resident_peak(call)
    return Peak(allocated_peak(call), resident)


def profiled_events(call: Call) -> Sequence[Any]:
    """The profiler's record of one call: its operators, and "[memory]" for every allocation and deallocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    record = profiler.profiler
    assert record is not None and record.kineto_results is not None
    return record.kineto_results.events()


def allocated_peak(call: Call) -> int:
    """By the profiler's record of every allocation (positive) and deallocation (negative)."""
    events = [event for event in profiled_events(call) if event.name() == "[memory]"]
    on_host = [event for event in events if event.device_type() == DeviceType.CPU]
    return max(accumulate(event.nbytes() for event in sorted(on_host, key=lambda event: event.start_ns())), default=0)


def resident_peak(call: Call) -> int:
    """By the kernel's high-water mark, from the pages that are in use before the call."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not in use, and would hide as much of the call
    (PROCESS / "clear_refs").write_text("5")  # the high-water mark starts anew
    before = status_bytes("VmRSS")
    call()
    return status_bytes("VmHWM") - before


def status_bytes(name: str) -> int:
    """A line of the process's status, such as "VmRSS"."""
    lines = (line.split() for line in (PROCESS / "status").read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == f"{name}:") * 1024


def in_fresh_process(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **keywords: Arguments.kwargs
) -> Result:
    """The result of a function of a module, called where nothing ran before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **keywords).result()
