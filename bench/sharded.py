"""`make bench-sharded`: losses of one image on 1, 2 and 4 processes by gloo, all of them on this machine.

For each: how far value and gradient are in fp64 from those of one process with the whole image, the bytes that a rank
sends in a call, and its memory; and how long the others take to learn that a rank was killed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from perceptual_ops import DISTS, LPIPS, PerceptualLoss
from perceptual_ops.distributed import sharded
from perceptual_ops.distributed.ranks import Ranks

from . import console, results
from .memory import allocated_peak

Loss = PerceptualLoss | LPIPS | DISTS

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
LOSSES: dict[str, Callable[[], Loss]] = {
    "style + content": lambda: PerceptualLoss("vgg16", weights="random", style_layers=LAYERS, style_weight=1e5),
    "LPIPS-VGG": lambda: LPIPS("vgg16", weights="random", reduction="mean"),
    "DISTS": lambda: DISTS(weights="random", reduction="mean"),
}
RANKS = (1, 2, 4)
EXACT, LARGE = (136, 80), (512, 256)  # height and width of images for errors, and for bytes and memory
TILE = 128
TIMEOUT, GUARD = timedelta(seconds=60), 3600.0  # of the group; of a rank that failed, seconds
KEYS = ("loss", "ranks")
PRINTED = (
    *(*KEYS, "size", "value_error", "gradient_error"),
    *("rows_kb", "sums_kb", "allocated_mb", "killed_s"),
)
COLUMNS = (*PRINTED, *results.OF_MACHINE)


@dataclass
class Sent:
    """Bytes that a rank sends.

    Attributes:
        rows: Of images, and of gradients.
        sums: Of Grams, statistics and values, to all others.
    """

    rows: int = 0
    sums: int = 0


@dataclass(frozen=True)
class Found:
    """What a rank has found of a call."""

    value: np.ndarray
    gradient: np.ndarray  # (1, 3, h, W)
    sent: Sent
    allocated: int


@contextmanager
def counted(sent: Sent) -> Iterator[None]:
    """Counts what this rank sends, but for the words (`all_gather_object`) before."""
    exchange, gather = dist.batch_isend_irecv, dist.all_gather

    def exchanged(operations: list[dist.P2POp]) -> list[dist.Work]:
        sent.rows += sum(operation.tensor.nbytes for operation in operations if operation.op is dist.isend)
        return exchange(operations)

    def gathered(found: list[Tensor], x: Tensor, **keywords: Any) -> Any:
        sent.sums += (len(found) - 1) * x.nbytes
        return gather(found, x, **keywords)

    with mock.patch.object(dist, "batch_isend_irecv", exchanged), mock.patch.object(dist, "all_gather", gathered):
        yield


def on_ranks(count: int, function: Callable[..., Any], *arguments: Any, killed: Sequence[int] = ()) -> list[Any]:
    """function(rank, *arguments) in `count` processes of a group, by rank; None of those that are killed."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        given = count, f"{folder}/store", results, function, arguments
        processes = [context.Process(target=_rank, args=(rank, *given)) for rank in range(count)]
        for process in processes:
            process.start()
        found = dict(results.get(timeout=GUARD) for _ in range(count - len(killed)))
        for process in processes:
            process.join()
    return [found.get(rank) for rank in range(count)]


def _rank(
    rank: int, count: int, store: str, results: Any, function: Callable[..., Any], arguments: Sequence[Any]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=TIMEOUT)
    results.put((rank, function(rank, *arguments)))
    dist.destroy_process_group()


def loss_of(name: str, dtype: torch.dtype) -> Loss:
    loss = LOSSES[name]().to(dtype)
    loss.tile_size = TILE
    if isinstance(loss, PerceptualLoss):
        loss.set_style(torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(1)).to(dtype))
    return loss


def pair(size: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    """Output and target (1, 3, H, W)."""
    draw = torch.Generator().manual_seed(0)
    return [torch.rand((1, 3, *size), generator=draw, dtype=torch.float64).to(dtype) for _ in range(2)]


def call(rank: int, name: str, size: tuple[int, int], dtype: torch.dtype) -> Found:
    """Value and gradient with respect to this rank's band; bands are as alike as they can be."""
    loss, sent = sharded(loss_of(name, dtype)), Sent()
    output, target = (x.tensor_split(dist.get_world_size(), dim=2)[rank].contiguous() for x in pair(size, dtype))
    output.requires_grad_()
    results: list[Tensor] = []

    def run() -> None:
        value = loss(output, target)
        results[:] = value.detach(), *torch.autograd.grad(value, output)

    with counted(sent):
        allocated = allocated_peak(run)
    value, gradient = (x.numpy() for x in results)  # tensors would be shared with a process that is gone
    return Found(value, gradient, sent, allocated)


def until_told(rank: int, name: str, killed: Path) -> float:
    """When this rank learnt that the last one was killed, who writes when that was; by the clock that all share."""
    loss = sharded(loss_of(name, torch.float32))
    parts = [x.tensor_split(dist.get_world_size(), dim=2)[rank] for x in pair(EXACT, torch.float32)]

    def die(*arguments: object) -> None:
        killed.write_text(str(time.monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)

    if rank == dist.get_world_size() - 1:
        with mock.patch.object(Ranks, "gathered", die):
            loss(*parts)
    try:
        loss(*parts)
    except RuntimeError:
        return time.monotonic()
    raise AssertionError("a rank was killed")


def delay(name: str, count: int) -> float:
    """Seconds until the last of the others has its error."""
    with tempfile.TemporaryDirectory() as folder:
        killed = Path(folder) / "killed"
        *told, _ = on_ranks(count, until_told, name, killed, killed=[count - 1])
        return max(told) - float(killed.read_text())


def of_one(name: str) -> list[np.ndarray]:
    """Value and gradient of the whole image in this process, without tiles."""
    loss, (output, target) = loss_of(name, torch.float64), pair(EXACT, torch.float64)
    loss.tile_size = None
    value = loss(output.requires_grad_(), target)
    return [x.detach().numpy() for x in (value, *torch.autograd.grad(value, output))]


def calls(rank: int) -> dict[str, tuple[Found, Found]]:
    """Of each loss: of the small image in fp64, and of the large one in fp32."""
    return {name: (call(rank, name, EXACT, torch.float64), call(rank, name, LARGE, torch.float32)) for name in LOSSES}


def row(
    machine: results.Machine, name: str, found: Sequence[tuple[Found, Found]], one: Sequence[np.ndarray], killed: str
) -> dict[str, str]:
    """A row of the CSV.

    Args:
        found: By rank, see `calls`.
        one: See `of_one`.
        killed: Seconds, see `delay`.
    """
    exact, large = zip(*found, strict=True)
    whole = exact[0].value, np.concatenate([part.gradient for part in exact], axis=2)
    errors = [abs(x - y).max() / abs(y).max() for x, y in zip(whole, one, strict=True)]
    return {
        **vars(machine),
        **{"loss": name, "ranks": str(len(found)), "size": "x".join(map(str, LARGE))},
        **{"value_error": f"{errors[0]:.1e}", "gradient_error": f"{errors[1]:.1e}"},
        "rows_kb": f"{max(part.sent.rows for part in large) / 1e3:.4g}",
        "sums_kb": f"{max(part.sent.sums for part in large) / 1e3:.4g}",
        "allocated_mb": f"{max(part.allocated for part in large) / 1e6:.4g}",
        "killed_s": killed,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark, prints its table and keeps it."""
    parser = argparse.ArgumentParser("python -m bench.sharded", description="Losses of an image on several processes.")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the CSV")
    options = parser.parse_args(arguments)
    machine = results.this_machine(torch.device("cpu"))
    known = [(name, str(count)) for name in LOSSES for count in RANKS]
    path, rows, one = options.out / f"{machine.slug}-sharded.csv", [], {name: of_one(name) for name in LOSSES}
    for count in RANKS:
        print(f"{count} ranks ...", file=sys.stderr, flush=True)
        found = on_ranks(count, calls)
        killed = f"{delay(next(iter(LOSSES)), count):.2f}" if count > 1 else ""
        rows += [row(machine, name, [by_loss[name] for by_loss in found], one[name], killed) for name in LOSSES]
        results.update(path, rows, known, KEYS, COLUMNS)
    print("\n".join(console.aligned([PRINTED, *(tuple(each[key] for key in PRINTED) for each in rows)], left=1)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
