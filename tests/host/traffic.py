"""The bytes that a launcher moves over those that it must move, and its products on tensor cores likewise.

A small launch runs in the traffic build, which counts the bytes of every buffer that each kernel reads and writes, each
byte once a kernel, and the products on tensor cores. For the sizes of VGG16's taps that is scaled up: what a buffer
moves for each byte that it must, or that its workspace has, does not depend on the number of images and pixels; how
large a workspace is does, and the launcher's own plan says that for any size. Channels are never scaled.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from types import ModuleType

import torch

from bench.suites.operators import Images
from host.build import build
from host.worker import Launch, Worker, load

Shape = tuple[int, ...]  # (N, C, H, W)
Shapes = list[Shape]  # of the layers of one launch
Bytes = dict[str, int]  # by buffer

FLOP = {"mma_16x8x16": 2 * 16 * 8 * 16, "mma_16x8x8_tf32": 2 * 16 * 8 * 8}
IMAGES = [Images(8, 512, torch.bfloat16), Images(4, 256, torch.bfloat16)]
# What is launched for each tap: enough pixels for whole tiles and, where channels are few, for several pieces.
SMALL = {
    "relu1_2": (1, 64, 32, 64),
    "relu2_2": (1, 128, 16, 16),
    "relu3_3": (1, 256, 8, 16),
    "relu4_3": (1, 512, 8, 16),
    "image": (1, 3, 64, 64),
}
# The taps of one launch.
HEAD = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")


@dataclass(frozen=True)
class Row:
    """A launcher and what it may move and multiply.

    Attributes:
        launcher: Its name in its module.
        launch: A launch of it: (dtype, layout, shapes) -> launch.
        needed: Each input and output once, by buffer: (shapes, bytes of an element) -> bytes.
        workspace: All other buffers, by the launcher's plan: (module, dtype, shapes) -> bytes.
        taps: Whose maps it takes; keys of SMALL, by launch.
        dtypes: Elements that it is launched with.
        layouts: And layouts.
        traffic: The most bytes that it may move, over those needed.
        flop: Products needed: shapes -> FLOP.
        passes: For each dtype that runs on tensor cores, how many products make one: 3 where TF32 makes fp32.
        products: The most FLOP of its tiles, over those needed.
        variant: What the launch computes, where its launcher leaves a choice.
    """

    launcher: str
    launch: Callable[[torch.dtype, str, Shapes], Launch]
    needed: Callable[[Shapes, int], Bytes]
    taps: tuple[tuple[str, ...], ...]
    workspace: Callable[[ModuleType, torch.dtype, Shapes], Bytes] = lambda *_: {}
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    layouts: tuple[str, ...] = ("nchw",)
    traffic: float = 1.1
    flop: Callable[[Shapes], int] = lambda shapes: 0
    passes: dict[torch.dtype, int] = field(default_factory=dict)
    products: float = 1.25
    variant: str = ""


@dataclass(frozen=True)
class Counts:
    """What a launch moved and multiplied.

    Attributes:
        moved: Bytes of each buffer, each once a kernel; of what kernels write and read, as they do a workspace, the
            larger of the two.
        products: Of warps on tensor cores, by name.
    """

    moved: Bytes
    products: dict[str, int]


@cache
def _counter() -> Worker:
    worker = Worker(build("traffic"))
    atexit.register(worker.close)
    return worker


def counts(launch: Launch) -> Counts:
    """Runs a launch in the traffic build. RuntimeError with the sentence where it fails."""
    (answer,) = _counter().answers([replace(launch, orders=1)], runner="traffic")
    if isinstance(answer, str):
        raise RuntimeError(answer)
    buffers, products = answer
    moved: Bytes = {}
    for name, size, read, written in buffers:
        if size:
            moved[name] = moved.get(name, 0) + max(read, written)
    return Counts(moved, products)


def scaled(counted: Counts, small: tuple[Bytes, Bytes], full: tuple[Bytes, Bytes]) -> float:
    """Bytes that a large launch moves.

    Args:
        counted: Of the small launch.
        small: What it needs and its workspace.
        full: The same of the large one.
    """
    named = {name for part in small for name, size in part.items() if size}
    if counted.moved.keys() != named:
        raise ValueError(f"the launch has the buffers {sorted(counted.moved)}, the row names {sorted(named)}")
    total = 0.0
    for small_part, full_part in zip(small, full, strict=True):
        for name, size in full_part.items():
            # A workspace that the small launch goes without counts once.
            total += size * (counted.moved[name] / small_part[name] if small_part.get(name) else 1)
    return total


@dataclass(frozen=True)
class Result:
    """One line of the report: a launcher with the maps of one tap and one size of images."""

    row: Row
    name: str
    dtype: torch.dtype
    needed: int
    moved: float
    products: float  # FLOP of the tiles over those needed; 0 without tensor cores

    @property
    def traffic(self) -> float:
        return self.moved / self.needed

    def complaints(self) -> list[str]:
        said = []
        if self.traffic < 0.99:
            said.append(f"{self.name}: moves {self.traffic:.3f} times the bytes needed: something is not touched")
        if self.traffic > self.row.traffic:
            said.append(f"{self.name}: moves {self.traffic:.3f} times the bytes needed, at most {self.row.traffic}")
        if self.products > self.row.products:
            said.append(f"{self.name}: {self.products:.3f} times the products needed, at most {self.row.products}")
        if (self.products > 0) != (self.dtype in self.row.passes):
            said.append(f"{self.name}: tensor cores are {'' if self.products else 'not '}used, the row says otherwise")
        return said


@dataclass(frozen=True)
class Measurement:
    """A launcher with the maps of some taps, at every size of images."""

    row: Row
    taps: tuple[str, ...]
    dtype: torch.dtype
    layout: str

    @property
    def name(self) -> str:
        taps = "head" if self.taps == HEAD else " ".join(self.taps)
        return " ".join(
            [
                self.row.launcher,
                *filter(None, [self.row.variant]),
                taps,
                str(self.dtype).removeprefix("torch."),
                self.layout,
            ]
        )

    def results(self) -> list[Result]:
        row, small = self.row, [SMALL[tap] for tap in self.taps]
        launch = row.launch(self.dtype, self.layout, small)
        counted, module = counts(launch), load(build("plain"), launch.room)

        def parts(shapes: Shapes) -> tuple[Bytes, Bytes]:
            return row.needed(shapes, self.dtype.itemsize), row.workspace(module, self.dtype, shapes)

        flop = sum(FLOP[name] * count for name, count in counted.products.items()) / row.passes.get(self.dtype, 1)
        products = flop / row.flop(small) if flop else 0.0
        results = []
        for images in IMAGES:
            full = parts([_shape(images, tap) for tap in self.taps])
            moved = scaled(counted, parts(small), full)
            name = f"{self.name} {images.batch}x{images.size}x{images.size}"
            results.append(Result(row, name, self.dtype, sum(full[0].values()), moved, products))
        return results


def measurements(rows: list[Row]) -> list[Measurement]:
    return [Measurement(row, *key) for row in rows for key in product(row.taps, row.dtypes, row.layouts)]


def _shape(images: Images, tap: str) -> Shape:
    return (images.batch, 3, images.size, images.size) if tap == "image" else images.tap(tap)
