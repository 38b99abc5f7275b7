"""`python -m bench.training`: trains a small network on photographs with our loss and with the plain one.

The same seed, photographs and order for every run, each in a process of its own. Two runs of the plain loss that differ
in its memory format alone say how far apart equals are: ours may be twice as far. See README.md.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from skimage import data
from torch import Tensor, nn

from examples.training_loop import photographs, random_crops
from perceptual_ops import PerceptualLoss
from perceptual_ops.networks import WeightSource, available

from . import console, results
from .memory import Peak, in_fresh_process, peak
from .plain import PlainLoss

Shape = tuple[int, int, int]  # batch, height, width

# What a compiled step meets: the first shape makes it a static graph, the second one that serves all others. A batch of
# 1 is left out, since torch.compile never takes it for one of many.
MIXED: tuple[Shape, ...] = ((4, 96, 96), (3, 112, 80), (2, 96, 128), (5, 80, 96), (4, 64, 64), (3, 128, 112))
COMPILATIONS = 2

# How much further from the plain run than its twin in the other memory format ours may be.
ALLOWED = 2.0

COLUMNS = (
    *("run", "reference", "steps", "seconds", "largest_difference", "mean_difference"),
    *("allocated_mb", "resident_mb", "first_loss", "last_loss", *results.OF_MACHINE),
)


@dataclass(frozen=True)
class Run:
    """A way to train.

    Attributes:
        criterion: From weights to a loss with `set_style` and (output, target) -> loss.
        reference: The run that this one is compared with.
        mixed: Whether batches go through the shapes of MIXED in turn.
        compiled: What is one graph of torch.compile: nothing, the "loss" by its default backend, or the "step", network
            and loss, by its front end alone. The default backend (torch 2.13, CPU) ties the backward of a convolution
            to its height and width, and so compiles the network anew for every shape, whatever the loss.
    """

    criterion: Callable[[WeightSource], Any]
    reference: str
    mixed: bool = False
    compiled: str = ""


MIXED_RUN = "ours, mixed shapes"
johnson = partial(PerceptualLoss.preset, "johnson-style")
RUNS = {
    "plain": Run(PlainLoss, "plain"),
    "plain NHWC": Run(partial(PlainLoss, layout=torch.channels_last), "plain"),
    "ours": Run(lambda weights: johnson(weights=weights), "plain"),
    "ours bf16": Run(lambda weights: johnson(weights=weights, compute_dtype=torch.bfloat16), "plain"),
    "ours, mixed shapes": Run(lambda weights: johnson(weights=weights), MIXED_RUN, mixed=True),
    "ours, mixed shapes, compiled loss": Run(
        lambda weights: johnson(weights=weights), MIXED_RUN, mixed=True, compiled="loss"
    ),
    "ours, mixed shapes, compiled step": Run(
        lambda weights: johnson(weights=weights), MIXED_RUN, mixed=True, compiled="step"
    ),
}


@dataclass(frozen=True)
class Curve:
    """The loss of every step, seconds of all of them, and the peak memory of one more step."""

    losses: list[float]
    seconds: float
    peak: Peak


class Stylizer(nn.Module):
    """(N, 3, H, W) -> the same: the images plus what four convolutions add to them, at first nothing."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 3, 3, padding=1),
        )
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, images: Tensor) -> Tensor:
        return images + self.body(images)


def batches(shapes: Sequence[Shape], steps: int) -> Iterator[Tensor]:
    """Random crops of the photographs, shape after shape."""
    pictures = photographs()
    for step in range(steps):
        batch, height, width = shapes[step % len(shapes)]
        yield random_crops(pictures, batch, max(height, width))[..., :height, :width].contiguous()


def style_image() -> Tensor:  # (1, 3, 256, 256)
    return torch.tensor(data.hubble_deep_field()[:256, :256]).permute(2, 0, 1).unsqueeze(0) / 255


def train(name: str, weights: WeightSource, shape: Shape, steps: int, device: str) -> Curve:
    run = RUNS[name]
    torch.manual_seed(0)
    model = Stylizer().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = run.criterion(weights).to(device)
    criterion.set_style(style_image().to(device))

    loss = torch.compile(criterion, fullgraph=True) if run.compiled == "loss" else criterion

    def loss_of(images: Tensor) -> Tensor:
        return loss(model(images), images)

    step_loss = torch.compile(loss_of, fullgraph=True, backend="aot_eager") if run.compiled == "step" else loss_of

    def step(images: Tensor) -> Tensor:
        value = step_loss(images)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.detach()

    losses: list[float] = []
    start = time.perf_counter()
    for images in batches(MIXED if run.mixed else [shape], steps):
        # From the third step on, torch raises where it would have to compile once more.
        stance = "default" if len(losses) < COMPILATIONS else "fail_on_recompile"
        with torch.compiler.set_stance(stance):
            losses.append(step(images.to(device)).item())
    seconds = time.perf_counter() - start
    on_device = images.to(device)
    return Curve(losses, seconds, peak(lambda: step(on_device), torch.device(device)))


def differences(curve: Curve, reference: Curve) -> tuple[float, float]:
    """The largest and the mean over all steps of the difference of two losses, over the reference's."""
    ours, theirs = (torch.tensor(losses, dtype=torch.float64) for losses in (curve.losses, reference.losses))
    shares = (ours - theirs).abs() / theirs.abs()
    return shares.max().item(), shares.mean().item()  # NaN if any is


def verdicts(curves: dict[str, Curve]) -> list[str]:
    """What is out of its limits; only of runs that were made."""
    if not {"plain", "plain NHWC", "ours"} <= curves.keys():
        return []
    found = []
    for what, ours, spread in zip(
        ("largest", "mean"),
        differences(curves["ours"], curves["plain"]),
        differences(curves["plain NHWC"], curves["plain"]),
        strict=True,
    ):
        if not ours <= ALLOWED * spread:
            found.append(f"ours: {what} difference is {ours:.1e}, {ALLOWED:g} x {spread:.1e} is allowed")
    return found


def rows(machine: results.Machine, curves: dict[str, Curve]) -> list[dict[str, str]]:
    """A CSV row for each run."""
    table = []
    for name, curve in curves.items():
        reference = RUNS[name].reference
        apart = differences(curve, curves[reference]) if reference in curves else (None, None)
        memory = (None if size is None else size / 1e6 for size in (curve.peak.allocated, curve.peak.resident))
        numbers = (curve.seconds, *apart, *memory, curve.losses[0], curve.losses[-1])
        texts = (name, reference, str(len(curve.losses)), *map(results.number, numbers))
        table.append(dict(zip(COLUMNS, (*texts, *vars(machine).values()), strict=True)))
    return table


def write_curves(path: Path, curves: dict[str, Curve]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", *curves])
        steps = zip(*(curve.losses for curve in curves.values()), strict=True)
        writer.writerows([step, *(f"{loss:.7g}" for loss in losses)] for step, losses in enumerate(steps))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.training", description="Training with our loss and the plain one")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default, help="default here: %(default)s")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the CSV files")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="runs whose name contains it")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=112, help="pixels of a crop")
    known = any(file.source == "stlpips" and file.present for file in available())
    parser.add_argument("--weights", default="stlpips" if known else "random", help="default here: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and returns the exit code: 1 where ours is further from the plain run than allowed."""
    options = parse(arguments)
    machine = results.this_machine(torch.device(options.device))
    shape = (options.batch, options.size, options.size)
    curves = {}
    for name in RUNS:
        if options.only in name:
            print(f"{name} ...", file=sys.stderr, flush=True)
            curves[name] = in_fresh_process(train, name, options.weights, shape, options.steps, options.device)
    table = rows(machine, curves)
    path = options.out / f"{machine.slug}-training.csv"
    results.update(path, table, [(name,) for name in RUNS], ("run",), COLUMNS)
    write_curves(path.with_stem(f"{path.stem}-curves"), curves)
    print(f"\n{machine}\n{path}\n")
    print("\n".join(console.aligned([COLUMNS[:10], *(list(row.values())[:10] for row in table)], left=2)))
    found = verdicts(curves)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
