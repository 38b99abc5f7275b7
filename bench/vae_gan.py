"""`python -m bench.vae_gan`: trains examples/drop_in/vae_gan.py with our LPIPS and with the package lpips.

The same seed, photographs and order for every run, each in a process of its own. Two runs of lpips that differ in the
memory format of its network alone say how far apart equals are. See README.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from examples.drop_in import vae_gan
from perceptual_ops.networks import available
from perceptual_ops.recipes.photographs import training_photographs
from perceptual_ops.recipes.training_log import Log

from . import peers, results
from .memory import in_fresh_process

REFERENCE, TWIN, OURS = RUNS = ("lpips", "lpips NHWC", "ours")
COLUMNS = (
    *("run", "weights", "size", "batch", "step"),
    *("seconds", "l1", "lpips", "kl", "adversarial", "weight", "discriminator", *results.OF_MACHINE),
)
NUMBERS = COLUMNS[COLUMNS.index("step") : COLUMNS.index("discriminator") + 1]
THINNED = 5  # every fifth step is kept

Rows = list[dict[str, float]]


def trained_weights() -> str:
    """ST-LPIPS's VGG16 as a file, which runs with the max-pooling that lpips has; "random" without it."""
    found = [file.path for file in available() if file.source == "stlpips" and file.network == "vgg16" and file.present]
    return str(found[0]) if found else "random"


def criterion(name: str, weights: str) -> nn.Module:
    if name == OURS:
        return vae_gan.loss_network("perceptual_ops", weights)
    peers.import_torchvision()
    module = vae_gan.loss_network("lpips", weights)
    return module.to(memory_format=torch.channels_last) if name == TWIN else module


def train(name: str, weights: str, steps: int, size: int, batch: int, start: int, device: str) -> Rows:
    """The rows of the example's log."""
    perceptual = criterion(name, weights).to(device)
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder, "log.csv"))
        vae_gan.train(perceptual, training_photographs(), log, steps, size, batch, start, device=device)
        log.read()
    return log.rows


def difference(rows: Rows, reference: Rows, steps: int) -> tuple[float, float]:
    """The largest and the mean share by which the reconstruction losses of the first steps differ."""
    ours, theirs = (
        torch.tensor([row["l1"] + row["lpips"] for row in run[:steps]], dtype=torch.float64)
        for run in (rows, reference)
    )
    shares = (ours - theirs).abs() / theirs
    return shares.max().item(), shares.mean().item()


def summary(curves: dict[str, Rows]) -> list[str]:
    """How far each run is from the reference in its first steps and in all, and its seconds a step."""
    lines = []
    for name, rows in curves.items():
        text = [f"{name}: {rows[-1]['seconds'] / len(rows):.3g} s a step"]
        for steps in sorted({min(count, len(rows)) for count in (1, 10, 50, len(rows))}):
            largest, mean = difference(rows, curves[REFERENCE], steps)
            text.append(f"{steps} steps: {largest:.1e} at most, {mean:.1e} on average")
        last = rows[-len(rows) // 5 :]
        text.append(f"last fifth: {sum(row['l1'] + row['lpips'] for row in last) / len(last):.4g}")
        lines.append("; ".join(text))
    return lines


def write(path: Path, common: dict[str, str], curves: dict[str, Rows]) -> None:
    kept = [
        common | {"run": name} | {column: f"{row[column]:.7g}" for column in NUMBERS}
        for name, rows in curves.items()
        for row in rows
        if row["step"] == 1 or row["step"] % THINNED == 0
    ]
    results.update(path, kept, [(name,) for name in RUNS], ("run",), COLUMNS)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.vae_gan", description="A VAE-GAN with our LPIPS and with lpips'")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default, help="default here: %(default)s")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the CSV file")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--start", type=int, default=100, help="first step of the discriminator")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=64, help="pixels of a crop")
    parser.add_argument("--weights", default=trained_weights(), help="of VGG16: random or a file; default: ST-LPIPS's")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if reason := peers.missing("lpips"):
        print(reason)
        return 0
    machine = results.this_machine(torch.device(options.device))
    path = options.out / f"{machine.slug}-vae-gan.csv"
    common = vars(machine) | {
        "weights": Path(options.weights).name,
        "size": str(options.size),
        "batch": str(options.batch),
    }
    curves = {}
    for name in RUNS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        settings = (options.weights, options.steps, options.size, options.batch, options.start, options.device)
        curves[name] = in_fresh_process(train, name, *settings)
        write(path, common, curves)
    print(f"\n{machine}\n{path}\n")
    print("\n".join(summary(curves)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
