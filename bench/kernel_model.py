"""A model of the kernels' speed, from counts: results/kernel_model.csv (`make kernel-model`). NOTHING HERE IS MEASURED.

A launch takes as long as the slowest of three: the SMs issue its instructions (kernel_counts.py), memory moves its
compulsory bytes (roofline.py), tensor cores make its products; and longer, as its busiest block slot has more than the
average to do. ASSUMPTIONS is all that the model knows of the device; every row of the table repeats it.
It leaves out launches, what one thread prepares for its block, waits for memory that too few loads are under way to
hide, bank conflicts (kernel_bank_conflicts.csv has them) and L2, and tiles on the diagonal of a Gram matrix cost what
others do. So it ranks changes of a kernel, and says what limits it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from types import ModuleType

import torch

from . import kernel_counts, roofline
from .roofline import Cost, Shape
from .suites.operators import CONTENT, TAPS, Images

TABLE = Path(__file__).parent / "results" / "kernel_model.csv"
COLUMNS = ["kernel", "case", "dtype", "layout", "items", "waves", "balance", "issue_us", "memory_us", "tensor_us"]
COLUMNS += ["predicted_us", "floor_us", "percent_of_floor", "assumed"]


@dataclass(frozen=True)
class Device:
    """What is assumed of an H200.

    Attributes:
        architecture: Whose machine code it runs.
        sms, clock, schedulers: Streaming multiprocessors, Hz, and warp instructions that one of them can issue a clock.
        issued: The share of those that it does issue, with the dependencies and waits of these kernels.
        bandwidth: Bytes a second, read and written.
        products: FLOP a second of tensor cores by dtype: of fp32 each product takes three of TF32, at half the rate.
    """

    architecture: int = 90
    sms: int = 132
    clock: float = 1.98e9
    schedulers: int = 4
    issued: float = 0.8
    bandwidth: float = 4.3e12
    products: Mapping[str, float] = field(default_factory=lambda: {"bfloat16": 790e12, "float32": 790e12 / 2 / 3})

    def __str__(self) -> str:
        issued = f"{self.issued:.0%} of {self.schedulers} instructions a clock"
        units = f"H200: {self.sms} SMs at {self.clock / 1e9:g} GHz that issue {issued}"
        products = [f"{rate / 1e12:.0f} TFLOP/s in {dtype}" for dtype, rate in self.products.items()]
        return "; ".join([units, f"{self.bandwidth / 1e12:g} TB/s", *products])

    def issue(self, instructions: float) -> float:
        """Seconds to issue what warps execute, all SMs at work."""
        return instructions / (self.sms * self.schedulers * self.clock * self.issued)


ASSUMPTIONS = Device()

# The sizes of images at which the Gram kernels are modelled: batch, side.
SIZES = ((8, 512), (4, 256), (1, 256))
DTYPES = {"bfloat16": (torch.bfloat16, "__nv_bfloat16"), "float32": (torch.float32, "float")}

WARPS = 8  # of a block of the Gram kernels
TILE, NARROW, LINE = 128, 64, 128  # csrc/gram: channels of a tile, of a narrow map, bytes of a panel's line
STREAMED = 10**9  # bytes that a kernel without matrix products is modelled for

Instructions = Mapping[tuple[str, str], int]  # of a warp, by kernel and part


@dataclass(frozen=True)
class Prediction:
    """A row of the table; times in seconds. `items`: none of a kernel whose blocks are many and alike."""

    kernel: str
    case: str
    dtype: str
    layout: str
    issue: float
    memory: float
    tensor: float
    items: int = 0
    waves: float = 0
    balance: float = 1

    @property
    def predicted(self) -> float:
        return max(self.issue, self.memory, self.tensor) / self.balance

    @property
    def floor(self) -> float:
        return max(self.memory, self.tensor)

    def line(self) -> dict[str, str]:
        times = (self.issue, self.memory, self.tensor, self.predicted, self.floor)
        list_ = [str(self.items), f"{self.waves:.2f}", f"{self.balance:.2f}"] if self.items else ["", "", ""]
        values = [self.kernel, self.case, self.dtype, self.layout, *list_, *(f"{1e6 * time:.1f}" for time in times)]
        return dict(zip(COLUMNS, [*values, f"{100 * self.floor / self.predicted:.0f}", str(ASSUMPTIONS)], strict=True))


def longest(costs: Iterable[float], slots: int) -> float:
    """What the busiest of some slots gets, when each takes the next item as soon as it is free."""
    busy = [0.0] * slots
    for cost in costs:
        heapq.heapreplace(busy, busy[0] + cost)
    return max(busy)


def gram_costs(plan: ModuleType, shapes: Sequence[Shape], size: int, of: Mapping[str, int]) -> list[int]:
    """Instructions of a warp for each block in turn, as gram.cuh makes them: of every piece. `of`: by part."""
    maps = [(n, c, h * w, c * h * w, h * w, 1) for n, c, h, w in shapes]
    _, runs = plan.runs(maps, LINE // size)
    return [sum(of["before"] + stages * of["stage"] + of["after"] for *_, stages, _ in run) for run in runs]


def gradient_costs(plan: ModuleType, shapes: Sequence[Shape], size: int, of: Mapping[str, int]) -> list[int]:
    """The same for gradient.cuh, whose blocks each make a tile of channels by pixels."""
    layers = []
    for batch, channels, height, width in shapes:
        narrow = channels <= NARROW
        tiles = ceil(channels / TILE) * ceil(height * width / (2 * TILE if narrow else TILE))
        stages = ceil(channels / (LINE // size))
        kind = "narrow " if narrow else ""
        cost = of[f"{kind}before"] + stages * of[f"{kind}stage"] + of[f"{kind}after"]
        layers.append([cost] * (batch * tiles))
    return [layers[layer][item] for layer, item in plan.interleaved([len(layer) for layer in layers])]


GRAM_KERNELS = {
    "gram_sum_kernel": (gram_costs, roofline.gram),
    "gram_gradient_kernel": (gradient_costs, roofline.gram_gradient),
}


def gram(
    plan: ModuleType, instructions: Instructions, blocks: Mapping[str, int], name: str, images: Images, layout: str
) -> Prediction:
    """One launch over all taps of the head. `blocks`: of each kernel on an SM."""
    costs_of, cost_of = GRAM_KERNELS[name]
    dtype = str(images.dtype).removeprefix("torch.")
    kernel = f"{name}<{DTYPES[dtype][1]}>"
    shapes = [images.tap(tap) for tap in TAPS]
    parts = {part.removeprefix(f"{layout} "): count for (of, part), count in instructions.items() if of == kernel}
    costs = costs_of(plan, shapes, images.dtype.itemsize, parts)
    slots = ASSUMPTIONS.sms * blocks[kernel]
    balance = sum(costs) / slots / longest(costs, slots)
    cost = sum((cost_of(shape, images.dtype) for shape in shapes), Cost())
    return Prediction(
        kernel,
        f"{images.batch}x{images.size}x{images.size}",
        dtype,
        layout,
        issue=ASSUMPTIONS.issue(WARPS * sum(costs)),
        memory=cost.bytes / ASSUMPTIONS.bandwidth,
        tensor=cost.flop / ASSUMPTIONS.products[dtype],
        items=len(costs),
        waves=len(costs) / slots,
        balance=balance,
    )


def stream(rows: Sequence[Mapping[str, str]], case: str, bytes_: int) -> Prediction:
    """A kernel that needs so many bytes, by its rows of the counts: passes over them, or one."""
    warps = bytes_ / (32 * int(rows[0]["needed"]))
    issue = ASSUMPTIONS.issue(warps * sum(int(row["instructions"]) for row in rows))
    kernel = rows[0]["kernel"]
    dtype = next(dtype for dtype, (_, name) in DTYPES.items() if f"<{name}" in kernel)
    return Prediction(kernel, case, dtype, "", issue, bytes_ / ASSUMPTIONS.bandwidth, 0.0)


def streams(counts: Sequence[Mapping[str, str]]) -> Iterator[Prediction]:
    """Every kernel without matrix products, for a gigabyte."""
    for kernel in dict.fromkeys(row["kernel"] for row in counts):
        of_kernel, rows = kernel_counts.row_of(kernel), [row for row in counts if row["kernel"] == kernel]
        if not isinstance(of_kernel, kernel_counts.Stream):
            continue
        if of_kernel.loops == "passes":
            yield stream(rows, "1 GB", STREAMED)
        else:
            yield from (stream([row], f"1 GB {row['part']}", STREAMED) for row in rows)


def head(grams: Sequence[Prediction], images: Images, counts: Sequence[Mapping[str, str]]) -> Prediction:
    """The Gram kernels' launches and that of the content term, one after the other; the floor is the whole head's."""
    dtype = grams[0].dtype
    kernel = f"feature_loss_kernel<{DTYPES[dtype][1]}, (Distance)0, (Wanted)2>"
    content, shapes = images.tap(CONTENT), [images.tap(tap) for tap in TAPS]
    (row,) = (row for row in counts if row["kernel"] == kernel)
    loss = stream([row], "", 3 * images.dtype.itemsize * torch.Size(content).numel())
    cost = roofline.head(shapes, [content], images.dtype)
    return Prediction(
        "head",
        grams[0].case,
        dtype,
        grams[0].layout,
        issue=sum(one.predicted for one in (*grams, loss)),
        memory=cost.bytes / ASSUMPTIONS.bandwidth,
        tensor=cost.flop / ASSUMPTIONS.products[dtype],
    )


def predictions(plan: ModuleType, counts: Sequence[Mapping[str, str]]) -> list[Prediction]:
    """Of the table of counts. `plan`: csrc/gram/plan.h, as tests/host/bindings/gram.cpp binds it."""
    of_device = [row for row in counts if row["architecture"] == str(ASSUMPTIONS.architecture)]
    instructions = {(row["kernel"], row["part"]): int(row["instructions"]) for row in of_device}
    blocks = {row["kernel"]: int(row["blocks"]) for row in of_device}
    found = []
    for dtype, _ in DTYPES.values():
        for batch, side in SIZES:
            images = Images(batch, side, dtype)
            for layout in ("nchw", "nhwc"):
                grams = [gram(plan, instructions, blocks, name, images, layout) for name in GRAM_KERNELS]
                found += [*grams, head(grams, images, of_device)]
    return [*found, *streams(of_device)]


def lines(plan: ModuleType, counts: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    return [one.line() for one in predictions(plan, counts)]
