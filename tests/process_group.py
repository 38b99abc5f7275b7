"""Processes that know each other by gloo."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp

GUARD = 600.0  # seconds, against another's death


@contextmanager
def process_group(store: Path, rank: int = 0, size: int = 1, timeout: float = GUARD) -> Iterator[None]:
    guard = timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=guard)
    try:
        yield
    finally:
        # The reducer of DistributedDataParallel must not be the last to hold the group: it ends the group's thread with
        # Python's lock in its hand, and where that thread waits for the lock, both wait for ever (torch 2.13).
        gc.collect()
        dist.destroy_process_group()


def _part(
    rank: int, size: int, store: Path, timeout: float, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    with process_group(store, rank, size, timeout):
        return function(rank, *arguments)


def on_processes(
    size: int,
    store: Path,
    function: Callable[..., Any],
    *arguments: Any,
    timeout: float = GUARD,
    killed: Sequence[int] = (),
) -> Any:
    """function(rank, *arguments) for rank 0 in this process, whose result it is, and for each other in one of its own.

    All come to their end but those that are `killed`.
    """
    others = {
        rank: mp.get_context("spawn").Process(target=_part, args=(rank, size, store, timeout, function, arguments))
        for rank in range(1, size)
    }
    for other in others.values():
        other.start()
    try:
        found = _part(0, size, store, timeout, function, arguments)
        for other in others.values():
            other.join()
    finally:
        for other in others.values():
            other.kill()
    assert {rank for rank, other in others.items() if other.exitcode} == set(killed)
    return found
