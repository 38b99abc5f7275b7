"""`make bench-tiles`: memory and time of losses of large images in tiles, from 1 to 67 megapixels.

Each row is one call in a fresh process, warmed up on a small image; see NOTES.md for how to read the figures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from perceptual_ops import LPIPS, PerceptualLoss, gradient_of
from perceptual_ops.engine.batching import auto_tile_side
from perceptual_ops.engine.tile_parts import area_of, tiles_through

from . import report
from .memory import allocated_peak, in_fresh_process, resident_peak
from .timing import Call

Loss = PerceptualLoss | LPIPS

STYLE = {"style_layers": ("relu1_2", "relu2_2", "relu3_3", "relu4_3"), "style_weight": 1e5}
LOSSES: dict[str, Callable[[], Loss]] = {
    "style": lambda: PerceptualLoss("vgg16", weights="random", content_layers=None, **STYLE),
    "style + content": lambda: PerceptualLoss("vgg16", weights="random", content_layers=["relu2_2"], **STYLE),
    "content": lambda: PerceptualLoss("vgg16", weights="random"),
    "LPIPS-VGG": lambda: LPIPS("vgg16", weights="random"),
    "LPIPS-Alex": lambda: LPIPS("alex", weights="random"),
}
COLUMNS = (
    *("time", "device", "threads", "torch", "library", "commit", "loss", "size", "tile", "count"),
    *("cpu_s_per_mp", "low", "high", "of_whole", "allocated_mb", "resident_mb", "run_pixels"),
)
KEYS = ("loss", "size", "tile")
WHOLE = "whole"
TILES = {1024: (WHOLE, "512", "auto"), 2048: (WHOLE, "auto"), 4096: ("auto",), 8192: ("auto",)}
PRINTED = (*KEYS, "cpu_s_per_mp", "of_whole", "allocated_mb", "resident_mb", "run_pixels")


@dataclass(frozen=True)
class Case:
    """A loss of one square image.

    Attributes:
        size: Of a side.
        tile: That of a tile, or "auto"; `WHOLE` for images as they go by default.
    """

    loss: str
    size: int
    tile: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.loss, str(self.size), self.tile

    @property
    def name(self) -> str:
        return " ".join(self.key)

    def make(self) -> Loss:
        loss = LOSSES[self.loss]()
        if isinstance(loss, PerceptualLoss) and loss.style_layers:
            loss.set_style(torch.rand((1, 3, 256, 256), generator=torch.Generator().manual_seed(1)))
        loss.tile_size = int(self.tile) if self.tile.isdigit() else None if self.tile == WHOLE else self.tile
        return loss

    def call(self, loss: Loss, size: int) -> Call:
        """() -> value and gradient of an image, which goes where memory was taken before unless it is whole."""
        draw = torch.Generator().manual_seed(0)
        output, target = (torch.rand((1, 3, size, size), generator=draw) for _ in range(2))
        given = () if isinstance(loss, PerceptualLoss) and not loss.content_layers else (target,)
        if self.tile == WHOLE:
            output.requires_grad_()
            return lambda: torch.autograd.grad(loss(output, *given).sum(), output)
        made = torch.zeros_like(output)
        return lambda: gradient_of(loss, output, *given, out=made)

    def run_pixels(self) -> float:
        """Pixels of all tiles for each of the image's."""
        loss = self.make()
        entry = loss.entry(torch.empty(0))
        is_nested = isinstance(loss, LPIPS)
        side = int(self.tile) if self.tile.isdigit() else auto_tile_side(entry.dtype, "cpu", is_nested)
        side = self.size if self.tile == WHOLE else side
        tiles = tiles_through(entry.trunk_key, loss.network_layers, (1, 3, self.size, self.size), side)
        return sum(area_of(tile.image) for tile in tiles) / self.size**2


@dataclass(frozen=True)
class Figures:
    """Of one call.

    Attributes:
        seconds: Of the CPU, the system's with them.
        allocated, resident: Bytes at the peak, beside image and gradient.
    """

    seconds: float
    allocated: int
    resident: int


def measure(case: Case) -> Figures:
    """One call; the allocator's account is kept meanwhile, and read after."""
    loss = case.make()
    case.call(loss, 64)()
    call = case.call(loss, case.size)
    found: dict[str, float] = {}

    def timed() -> None:
        before = os.times()
        found["resident"] = resident_peak(call)
        after = os.times()
        found["seconds"] = after.user + after.system - before.user - before.system

    allocated = allocated_peak(timed)
    gradient = 12 * case.size**2 if case.tile == WHOLE else 0  # that is returned
    return Figures(found["seconds"], allocated - gradient, int(found["resident"]) - gradient)


def cases(only: Sequence[str]) -> list[Case]:
    every = [Case(loss, size, tile) for loss in LOSSES for size, tiles in TILES.items() for tile in tiles]
    return [case for case in every if any(part in case.name for part in only)]


def row(machine: report.Machine, case: Case, found: Sequence[Figures], whole: float | None) -> dict[str, str]:
    """A row of the CSV.

    Args:
        whole: Seconds of the CPU for the same image at once; None where that was not run.
    """
    megapixels = case.size**2 / 1e6
    seconds = [figures.seconds / megapixels for figures in found]
    median = statistics.median(seconds)
    return {
        **{name: str(value) for name, value in vars(machine).items()},
        **dict(zip(KEYS, case.key, strict=True)),
        "count": str(len(found)),
        **{"cpu_s_per_mp": f"{median:.4g}", "low": f"{min(seconds):.4g}", "high": f"{max(seconds):.4g}"},
        "of_whole": report.optional(None if whole is None else median * megapixels / whole),
        "allocated_mb": f"{max(figures.allocated for figures in found) / 1e6:.4g}",
        "resident_mb": f"{max(figures.resident for figures in found) / 1e6:.4g}",
        "run_pixels": f"{case.run_pixels():.3f}",
    }


def run(group: Sequence[Case], rounds: int) -> dict[Case, list[Figures]]:
    """Cases of one loss and size, in turn; those above 2048 pixels once."""
    found: dict[Case, list[Figures]] = {case: [] for case in group}
    for _ in range(rounds if group[0].size <= 2048 else 1):
        for case in group:
            print(f"{case.name} ...", file=sys.stderr, flush=True)
            found[case].append(in_fresh_process(measure, case))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark, prints its table and keeps it."""
    parser = argparse.ArgumentParser("python -m bench.tiles", description="Losses of large images in tiles.")
    parser.add_argument("--only", nargs="+", default=[""], metavar="PART", help='parts of names, such as "style 1024"')
    parser.add_argument("--rounds", type=int, default=3, help="of images up to 2048 pixels; default: %(default)s")
    parser.add_argument("--out", type=Path, default=report.ROOT / "bench/results", help="folder of the CSV")
    options = parser.parse_args(arguments)
    machine = report.this_machine(torch.device("cpu"))
    path = options.out / f"{machine.slug}-tiles.csv"
    known = [case.key for case in cases([""])]
    wanted = cases(options.only)
    if not wanted:
        parser.error(f"--only: no case contains {' or '.join(map(repr, options.only))}")
    lines = [PRINTED]
    for loss, size in dict.fromkeys((case.loss, case.size) for case in wanted):
        found = run([case for case in wanted if (case.loss, case.size) == (loss, size)], options.rounds)
        of_whole = found.get(Case(loss, size, WHOLE))
        whole = statistics.median(figures.seconds for figures in of_whole) if of_whole else None
        rows = [row(machine, case, figures, whole) for case, figures in found.items()]
        report.write_csv(path, rows, known, COLUMNS, KEYS)
        lines += [tuple(each[name] for name in PRINTED) for each in rows]
    print("\n".join(report.aligned(lines, left=3)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
