"""`make accuracy`: LPIPS and Johnson's loss in fp32, fp16 and bf16 against fp64, over photographs.

Photographs that come with scikit-image and scikit-learn, cut to squares and spoiled in several ways, by networks with
trained weights, those of ST-LPIPS. Values by their relative error, gradients with respect to the image by their cosine
with fp64's: what an optimiser's step loses of its direction. Exact is plain PyTorch in fp64. Results go to
bench/results/precision.csv; a GPU, too, sums products of fp16 and bf16 in fp32.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_ops import LPIPS, PerceptualLoss
from perceptual_ops.images import read_image
from perceptual_ops.recipes.photographs import held_out_photographs

from .results import FOLDER

TABLE = FOLDER / "precision.csv"
COLUMNS = ("loss", "images", "dtype", "pairs", "value_worst", "value_median", "cosine_worst", "cosine_median")
SIDE = 96  # pixels of a square
WEIGHTS = "stlpips"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Both take images in [0, 1].
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "LPIPS vgg16": partial(LPIPS, "vgg16", input_range=(0, 1), reduction="mean"),
    "LPIPS alex": partial(LPIPS, "alex", input_range=(0, 1), reduction="mean"),
    "johnson-style": partial(PerceptualLoss.preset, "johnson-style"),
}

Result = tuple[float, Tensor]  # a loss, and its gradient (1, 3, H, W)


def blurred(x: Tensor) -> Tensor:
    small = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    return F.interpolate(small, x.shape[2:], mode="bicubic").clamp(0, 1)


def noisy(x: Tensor) -> Tensor:
    return (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def nearly_equal(x: Tensor) -> Tensor:
    """Off by one step of 8 bits here and there, as a network's output is late in its training."""
    return (x + torch.randint(-1, 2, x.shape, generator=torch.Generator().manual_seed(1)) / 255).clamp(0, 1)


IMAGES = {"spoiled": (blurred, noisy), "nearly equal": (nearly_equal,)}


def pairs(images: str, side: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:  # (1, 3, side, side) each
    """Outputs, their targets, and pictures whose style is wanted."""
    squares = [center(read_image(path), side) for path in held_out_photographs().values()]
    for (i, target), spoil in product(enumerate(squares), IMAGES[images]):
        yield spoil(target), target, squares[i - 1]


def center(x: Tensor, side: int) -> Tensor:  # (1, 3, H, W) -> (1, 3, side, side)
    """The largest square in the middle, in the size."""
    least = min(x.shape[2:])
    top, left = ((length - least) // 2 for length in x.shape[2:])
    square = x[:, :, top : top + least, left : left + least]
    return F.interpolate(square, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


def result(loss: nn.Module, output: Tensor, target: Tensor, style: Tensor) -> Result:
    leaf = output.detach().clone().requires_grad_()
    value = loss(leaf, target, style) if isinstance(loss, PerceptualLoss) else loss(leaf, target)
    return value.item(), torch.autograd.grad(value, leaf)[0]


def errors(name: str, images: str, weights: str, side: int) -> dict[torch.dtype, list[tuple[float, float]]]:
    """The relative error of the value and the cosine of the gradient, of every pair."""
    exact = LOSSES[name](weights=weights, engine="autograd", backend="reference").double()
    rounded = {dtype: LOSSES[name](weights=weights, compute_dtype=dtype) for dtype in DTYPES}
    found: dict[torch.dtype, list[tuple[float, float]]] = {dtype: [] for dtype in DTYPES}
    for pair in pairs(images, side):
        value, gradient = result(exact, *(image.double() for image in pair))
        for dtype, loss in rounded.items():
            mine, direction = result(loss, *pair)
            cosine = F.cosine_similarity(direction.double().flatten(), gradient.flatten(), dim=0).item()
            found[dtype].append((abs(mine - value) / value, cosine))
    return found


def rows(weights: str, side: int) -> Iterator[tuple[str, ...]]:
    for name, images in product(LOSSES, IMAGES):
        for dtype, found in errors(name, images, weights, side).items():
            of_values, cosines = zip(*found, strict=True)
            yield (
                *(name, images, str(dtype).removeprefix("torch."), str(len(found))),
                *(f"{error:.2e}" for error in (max(of_values), statistics.median(of_values))),
                *(f"{cosine:.6f}" for cosine in (min(cosines), statistics.median(cosines))),
            )


def main(table: Path = TABLE, weights: str = WEIGHTS, side: int = SIDE) -> int:
    lines = [COLUMNS]
    line = "{:14} {:13} {:9} {:>6} {:>12} {:>13} {:>13} {:>14}"
    print(line.format(*COLUMNS))
    for row in rows(weights, side):
        print(line.format(*row), flush=True)
        lines.append(row)
    with table.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
