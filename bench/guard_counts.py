"""Counts the guard's cases: `python -m bench.guard_counts`, in the processes that bench/guard.py starts."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
from pathlib import Path

import torch

from perceptual_ops._native import native

from . import callgrind
from .guard_cases import CASES, Call
from .memory import profiled_events

WARM_UPS = 2  # what a first call makes is kept


def counts(call: Call) -> dict[str, int]:
    """What the dispatcher was asked to run, how much of it is ours, and what was allocated."""
    events = profiled_events(call)
    operators = [event.name() for event in events if "::" in event.name() and not event.name().startswith("autograd::")]
    sizes = [event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > 0]
    return {
        "operators": len(operators),
        "own_operators": sum(name.startswith("perceptual_ops::") for name in operators),
        "allocations": len(sizes),
        "bytes": sum(sizes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=Path, help="file for the counts of every case of this process")
    parser.add_argument("--requests", help="bench/callgrind.py's library: its instructions are counted instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in CASES if case.plain is not native.loaded and (case.instructions or not options.requests)]
    calls = {case.name: case.build() for case in cases}
    for call in calls.values():
        for _ in range(WARM_UPS):
            call()
    if options.requests is None:
        found = {name: counts(call) for name, call in calls.items()}
    else:
        requests = ctypes.CDLL(options.requests)
        gc.disable()
        requests.start()
        for call in calls.values():
            requests.zero()
            call()
            requests.dump()
        found = {name: {} for name in calls}
    made = {"torch": torch.__version__, "compiler": native.build_info.get("compiler", ""), "cases": found}
    if options.requests:
        code = callgrind.code_of(native.file.resolve())
        made["code"] = code.start, code.stop
    options.counts.write_text(json.dumps(made))


if __name__ == "__main__":
    main()
