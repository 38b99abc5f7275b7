"""`make accuracy`: the errors of every operator and kernel against fp64, beside those of a naive run in the same dtype.

Operators run on the CPU, kernels in the host execution on the small cases of its suite and on sums over 65,536 numbers
that only grow; the largest errors go to bench/results/accuracy.csv, each over its result's largest value. In fp64 the
naive run is the oracle itself, so that a multiple there is one of the last place. Convolutions of VGG16's sizes and the
gradient of a whole LPIPS over photographs stand beside plain PyTorch in NCHW. A single ReLU or maximum that rounding
decides the other way changes that gradient by a thousand times the rounding, in either: the median counts, the worst is
luck.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from host import cases_channel_statistics, cases_dists, cases_gram, cases_pointwise
from host.build import ROOT, build
from host.suite import LAYOUTS as HOST_LAYOUTS
from host.suite import long_cases, small_cases, small_fp16_cases
from host.worker import run
from maps import DTYPES, LAYOUTS, assert_accurate, random_map, relative_error
from operators import OPERATORS, run_native, run_reference, value_and_gradient
from peers import worse
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from perceptual_ops import LPIPS
from perceptual_ops.engine.convolution import FrozenConv
from perceptual_ops.images import read_image
from perceptual_ops.networks.layers import Conv
from perceptual_ops.recipes.photographs import held_out_photographs

TABLE = ROOT / "bench" / "results" / "accuracy.csv"
WIDTHS = (torch.float32, torch.float64)
CORNERS = ((20, 30), (60, 200), (150, 80), (200, 220))  # of crops
SHAPES = [(2, 5, 7, 9), (2, 130, 1, 3), (1, 70, 64, 40)]
COLUMNS = ["what", "dtype", "layout", "results", "error", "naive_error", "multiple"]

Key = tuple[str, str, str]  # what, dtype, layout
Errors = tuple[float, float, float]  # ours, the naive run's, ours as a multiple of it


def errors(ours: Tensor, naive: Tensor, exact: Tensor) -> Errors:
    """A naive run without error, or with one below the last place, is taken at the last place."""
    error, naive_error = relative_error(ours, exact), relative_error(naive, exact)
    return error, naive_error, error / max(naive_error, torch.finfo(ours.dtype).eps)


def operators() -> Iterator[tuple[Key, Errors]]:
    for operator, dtype, layout, shape in product(
        OPERATORS, DTYPES, ["nchw", "nhwc", "sliced nchw", "cropped"], SHAPES
    ):
        second = (shape[0], shape[1] + 2, max(1, shape[2] // 2), max(1, shape[3] // 2))
        maps = [LAYOUTS[layout](random_map(one, dtype, "cpu", seed)) for seed, one in enumerate((shape, second))]
        exact = value_and_gradient(lambda xs, op=operator: run_reference(op, xs), [x.double() for x in maps])
        ours = value_and_gradient(lambda xs, op=operator: run_native(op, xs), maps)
        naive = value_and_gradient(operator.naive, maps)
        names = ["value", *["gradient"] * len(ours[1])]
        results = ((ours[0], *ours[1]), (naive[0], *naive[1]), (exact[0], *exact[1]))
        for name, mine, theirs, truth in zip(names, *results, strict=False):
            if theirs.isfinite().all():
                yield (
                    (f"{operator.name} {name}", str(dtype).removeprefix("torch."), layout),
                    errors(mine, theirs, truth),
                )


def kernels() -> Iterator[tuple[Key, Errors]]:
    seen: list[Errors] = []

    def record(ours: Tensor, naive: Tensor, exact: Tensor) -> None:
        assert_accurate(ours, naive, exact)
        seen.append(errors(ours, naive, exact))

    for module in (cases_channel_statistics, cases_dists, cases_gram, cases_pointwise):
        module.assert_accurate = record
    long = long_cases([torch.float32, torch.bfloat16, torch.float16], HOST_LAYOUTS[:2], 65536)
    for case in [*small_cases(), *small_fp16_cases(), *long]:
        launcher, dtype, *rest = case.name.split()
        layout = " ".join(word for word in rest if word in ("sliced", "nchw", "nhwc")) or "dense"
        launch, check = case.make()
        check(run(build("plain"), launch))
        yield from (((f"kernel {launcher}", dtype, layout), one) for one in seen)
        seen.clear()


def convolutions() -> Iterator[tuple[Key, Errors]]:
    """Those of VGG16 at what is left of 64 and of 224 pixels, and their input gradients."""
    for (inputs, outputs, shrink), side in product(
        [(64, 64, 1), (256, 256, 4), (512, 512, 8), (512, 512, 16)], [64, 224]
    ):
        size = side // shrink
        module = nn.Conv2d(inputs, outputs, 3, padding=1)
        module.weight.data = random_map((outputs, inputs, 3, 3), torch.float32, "cpu", 1)
        module.bias.data = random_map((outputs,), torch.float32, "cpu", 2)
        frozen = FrozenConv(module, Conv("conv", inputs, outputs), torch.float32)
        weight, bias = module.weight.detach(), module.bias.detach()
        x = random_map((1, inputs, size, size), torch.float32, "cpu", 3).relu()
        grad = random_map((1, outputs, size, size), torch.float32, "cpu", 4)
        ours = frozen.forward(x.contiguous(memory_format=torch.channels_last))
        naive, exact = (F.conv2d(x.to(dtype), weight.to(dtype), bias.to(dtype), padding=1) for dtype in WIDTHS)
        what = f"convolution {inputs} to {outputs}"
        yield ((f"{what} value", "float32", f"{size} x {size}"), errors(ours, naive, exact))
        ours = frozen.input_gradient(grad.contiguous(memory_format=torch.channels_last), (size, size))
        naive, exact = (conv2d_input(x.shape, weight.to(dtype), grad.to(dtype), 1, 1) for dtype in WIDTHS)
        yield ((f"{what} gradient", "float32", f"{size} x {size}"), errors(ours, naive, exact))


def photographs() -> Iterator[tuple[Key, Errors]]:
    """The gradient of LPIPS by a photograph's crop that was blurred and has noise."""
    plain = {"engine": "autograd", "backend": "reference"}
    ours, naive, exact = (LPIPS("vgg16", weights="stlpips", **settings) for settings in ({}, plain, plain))
    exact.double()

    def image_gradient(loss: LPIPS, output: Tensor, target: Tensor) -> Tensor:  # (1, 3, H, W) each
        output = output.clone().requires_grad_()
        return torch.autograd.grad(loss(output, target).sum(), output)[0]

    found = []
    for path, (top, left) in product(held_out_photographs().values(), CORNERS):
        target = read_image(path)[:, :, top : top + 48, left : left + 48]
        pair = [2 * images - 1 for images in (worse(target), target)]
        wide = [images.double() for images in pair]
        found.append(errors(image_gradient(ours, *pair), image_gradient(naive, *pair), image_gradient(exact, *wide)))
    what = "LPIPS vgg image gradient, photographs"
    yield from (((f"{what}: worst", "float32", "48 x 48"), one) for one in found)
    error, naive_error = (statistics.median(one[i] for one in found) for i in range(2))
    yield ((f"{what}: median", "float32", "48 x 48"), (error, naive_error, error / naive_error))


def main() -> None:
    worst: dict[Key, tuple[int, Errors]] = {}
    for part in (operators(), kernels(), convolutions(), photographs()):
        for key, found in part:
            count, before = worst.get(key, (0, (0.0, 0.0, 0.0)))
            worst[key] = (count + 1, (max(before[0], found[0]), max(before[1], found[1]), max(before[2], found[2])))
    lines = [
        [*key, str(count), f"{error:.2e}", f"{naive:.2e}", f"{multiple:.2f}"]
        for key, (count, (error, naive, multiple)) in sorted(worst.items())
    ]
    for line in [COLUMNS, *lines]:
        print("{:48} {:9} {:12} {:>7} {:>9} {:>11} {:>8}".format(*line))
    with TABLE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *lines])


if __name__ == "__main__":
    main()
