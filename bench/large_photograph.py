"""`make bench-photograph`: the style gradient of a photograph of 8000 x 8000 pixels in capped memory.

A photograph of scikit-image is enlarged and lies in a file of 8-bit numbers, of which the loss reads one rectangle
after another; the gradient goes to another file. What is capped is the private memory of the process (RLIMIT_DATA),
that of Python, torch and weights with it, but not the pages of both files. The same at 1024 pixels is compared with the
gradient of the whole image. `*-photograph.csv` has what both took.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perceptual_ops import PerceptualLoss, gradient_of
from perceptual_ops.images import read_image
from perceptual_ops.recipes.photographs import photograph

from . import results
from .case import error
from .memory import in_fresh_process, status_bytes

STYLE = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
COMPARED = 1024  # pixels on a side at which the whole image fits
TOLERANCE = 1e-3  # of the gradient's 2-norm, as rounding moves maxima
KEYS = ("side", "weights", "limit_mb")
COLUMNS = (*KEYS, "loss", "seconds", "cpu_seconds", "resident_mb", "error", *results.OF_MACHINE)


@dataclass(frozen=True)
class EightBits:
    """A picture of 8-bit numbers (H, W, 3) as the loss reads it."""

    pixels: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.pixels.shape
        return channels, height, width

    def read(self, rows: slice, columns: slice) -> Tensor:  # (3, h, w)
        return torch.from_numpy(self.pixels[rows, columns].copy()).permute(2, 0, 1) / 255


@dataclass(frozen=True)
class Result:
    """A gradient that was made.

    Attributes:
        resident: Bytes of the process at its peak, pages of the files with them.
    """

    loss: float
    seconds: float
    cpu_seconds: float
    resident: int


def enlarge(path: Path, side: int) -> None:
    """Writes a square photograph (side, side, 3) of 8-bit numbers as .npy."""
    from PIL import Image

    picture = Image.open(photograph("astronaut")).convert("RGB")
    least = min(picture.size)
    np.save(path, np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS, box=(0, 0, least, least))))


def style_loss(weights: str) -> PerceptualLoss:
    loss = PerceptualLoss("vgg16", weights=weights, content_layers=None, style_layers=STYLE, style_weight=1e5)
    loss.set_style(read_image(photograph("tissue"), 512))
    return loss


def capped_gradient(folder: Path, weights: str, limit: int) -> Result:
    """Runs gradient.npy of photograph.npy, in at most `limit` bytes of private memory."""
    pixels = np.load(folder / "photograph.npy", mmap_mode="r")
    made = np.lib.format.open_memmap(folder / "gradient.npy", "w+", np.float32, (3, *pixels.shape[:2]))
    loss = style_loss(weights)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    begin, cpu = time.monotonic(), time.process_time()

    def progress(done: int, total: int) -> None:
        left = (time.monotonic() - begin) * (total / done - 1)
        print(f"\r{done} of {total} tiles, {left / 60:.0f} minutes left ", end="", file=sys.stderr, flush=True)

    value, _ = gradient_of(loss, EightBits(pixels), out=made, progress=progress)
    print(file=sys.stderr)
    return Result(value.item(), time.monotonic() - begin, time.process_time() - cpu, status_bytes("VmHWM"))


def difference(folder: Path, weights: str) -> float:
    """How far gradient.npy is from the gradient of the whole photograph at once."""
    pixels = np.load(folder / "photograph.npy", mmap_mode="r")
    whole = EightBits(pixels).read(slice(None), slice(None))[None].requires_grad_()
    (expected,) = torch.autograd.grad(style_loss(weights)(whole), whole)
    return error(torch.from_numpy(np.load(folder / "gradient.npy"))[None], expected)


def run(side: int, weights: str, limit: int, folder: Path) -> results.Row:
    """Prints what the gradient of a photograph of `side` pixels squared took, and returns it but for the machine."""
    enlarge(folder / "photograph.npy", side)
    result = in_fresh_process(capped_gradient, folder, weights, limit)
    print(
        f"{side} x {side}: loss {result.loss:.6g}, {result.seconds:.0f} s, {result.cpu_seconds:.0f} of the CPU; "
        f"private memory below {limit / 1e6:.0f} MB; {result.resident / 1e6:.0f} MB resident at most with the files"
    )
    return {
        "side": str(side),
        "weights": weights,
        "limit_mb": results.number(limit / 1e6),
        "loss": f"{result.loss:.6g}",
        "seconds": f"{result.seconds:.0f}",
        "cpu_seconds": f"{result.cpu_seconds:.0f}",
        "resident_mb": results.number(result.resident / 1e6),
        "error": "",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what was found and returns the exit code: 1 where gradients differ."""
    parser = argparse.ArgumentParser(
        "python -m bench.large_photograph", description="A style gradient of a large photograph in capped memory."
    )
    parser.add_argument("--side", type=int, default=8000, help="of the photograph; default: %(default)s")
    parser.add_argument("--limit", type=float, default=2000, metavar="MB", help="of memory; default: %(default)s")
    parser.add_argument("--weights", default="stlpips", help="of VGG16; default: %(default)s")
    parser.add_argument("--folder", type=Path, help="of photograph and gradient, which stay; default: a temporary one")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the CSV")
    options = parser.parse_args(arguments)
    limit = int(options.limit * 1e6)
    machine = results.this_machine(torch.device("cpu"))
    path = options.out / f"{machine.slug}-photograph.csv"
    known = [(str(side),) for side in (COMPARED, options.side)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        compared = run(COMPARED, options.weights, limit, folder)
        off = in_fresh_process(difference, folder, options.weights)
        print(f"the gradient is {off:.1e} from that of the whole image at once, {TOLERANCE:g} are allowed", flush=True)
        if off > TOLERANCE:
            return 1
        rows = [compared | {"error": f"{off:.1e}"}, run(options.side, options.weights, limit, folder)]
    results.update(path, [row | vars(machine) for row in rows], known, KEYS, COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
