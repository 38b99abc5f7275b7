"""A rank that dies amid a call, or does not make it, is an error on every other rank, never a hang."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist
from process_group import GUARD, on_processes
from sharded_cases import images, perceptual
from torch import Tensor

import perceptual_ops as po
from perceptual_ops.distributed.ranks import Ranks

TIMEOUT = timedelta(seconds=20)  # of the groups: none answers earlier where a rank is alive and silent
# Where a rank dies, by its number: it has said what it has, but sends no rows; or it has sent rows, but no sums.
DEATHS = {2: "exchanged", 3: "gathered"}


def call(rank: int, group: Any) -> Tensor:
    band = images(rank, 1, 3, 16, 20).requires_grad_()
    return po.distributed.sharded(perceptual(), group)(band, images(rank + 10, 1, 3, 16, 20))


def die(*arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_each(rank: int, done: Path) -> None:
    groups = {dead: dist.new_group([0, 1, dead], timeout=TIMEOUT) for dead in DEATHS}
    pair = dist.new_group([0, 1], timeout=TIMEOUT)
    if rank in DEATHS:
        with mock.patch.object(Ranks, DEATHS[rank], die):
            call(2, groups[rank])
    for group in groups.values():
        with pytest.raises(RuntimeError, match=f"group: expected an answer of every one .*this is rank {rank}"):
            call(rank, group)
    if rank == 1:  # which makes no third call
        end = time.monotonic() + GUARD
        while not done.exists() and time.monotonic() < end:
            time.sleep(0.1)
        return
    with pytest.raises(RuntimeError, match="group: expected an answer of every one of its 2 ranks within its timeout"):
        call(rank, pair)
    done.touch()


def test_a_rank_that_dies_or_is_silent(library: None, tmp_path: Path) -> None:
    on_processes(4, tmp_path / "store", on_each, tmp_path / "done", killed=list(DEATHS))
