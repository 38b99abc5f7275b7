"""`make accuracy`: the errors of every operator and kernel against fp64, beside those of a naive run in the same dtype.

Operators run on the CPU, kernels in the host execution on the small cases of its suite and on sums over 65,536 numbers
that only grow; the largest errors go to bench/results/accuracy.csv, each over its result's largest value. In fp64 the
naive run is the oracle itself, so that a multiple there is one of the last place.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from host import cases_dists, cases_gram, cases_pointwise
from host.build import ROOT, build
from host.suite import LAYOUTS as HOST_LAYOUTS
from host.suite import long_cases, small_cases
from host.worker import run
from maps import DTYPES, LAYOUTS, assert_accurate, random_map, relative_error
from operators import OPERATORS, run_native, run_reference, value_and_gradient
from torch import Tensor

TABLE = ROOT / "bench" / "results" / "accuracy.csv"
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

    cases_dists.assert_accurate = cases_gram.assert_accurate = cases_pointwise.assert_accurate = record
    for case in [*small_cases(), *long_cases([torch.float32, torch.bfloat16, torch.float16], HOST_LAYOUTS[:2], 65536)]:
        launcher, dtype, *rest = case.name.split()
        layout = " ".join(word for word in rest if word in ("sliced", "nchw", "nhwc")) or "dense"
        launch, check = case.make()
        check(run(build("plain"), launch))
        yield from (((f"kernel {launcher}", dtype, layout), one) for one in seen)
        seen.clear()


def main() -> None:
    worst: dict[Key, tuple[int, Errors]] = {}
    for part in (operators(), kernels()):
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
