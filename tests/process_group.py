"""Processes that know each other by gloo."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp


@contextmanager
def process_group(store: Path, rank: int = 0, size: int = 1) -> Iterator[None]:
    guard = timedelta(seconds=600)  # against the other's death
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=guard)
    try:
        yield
    finally:
        # The reducer of DistributedDataParallel must not be the last to hold the group: it ends the group's thread with
        # Python's lock in its hand, and where that thread waits for the lock, both wait for ever (torch 2.13).
        gc.collect()
        dist.destroy_process_group()


def _part(rank: int, store: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with process_group(store, rank, 2):
        return function(rank, *arguments)


def on_two_processes(store: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(rank, *arguments) for rank 0 in this process, whose result it is, and for rank 1 in another."""
    other = mp.get_context("spawn").Process(target=_part, args=(1, store, function, arguments))
    other.start()
    try:
        found = _part(0, store, function, arguments)
        other.join()
    finally:
        other.kill()
    assert other.exitcode == 0
    return found
