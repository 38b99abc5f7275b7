"""The model of the kernels' speed: as bench/results/kernel_model.csv says, and what it is made of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from host import cases_gram
from host.build import build
from host.traffic import counts
from host.worker import load

from bench import kernel_counts, kernel_model, tables
from bench.kernel_model import ASSUMPTIONS, Prediction
from bench.suites.operators import Images


@pytest.fixture(scope="module")
def plan():
    return load(build("plain"), "gram")


def test_the_table_is_that_of_the_counts(plan) -> None:
    """And of the plan of csrc/gram: the counts themselves are compared with the library (test_kernel_counts.py)."""
    made = kernel_model.lines(plan, tables.read(kernel_counts.TABLE))
    written = tables.read(kernel_model.TABLE)
    news = [row for row in made if row not in written]
    assert made == written, f"run `make kernel-model` and commit its tables; the news: {news}"


def test_the_busiest_slot() -> None:
    assert kernel_model.longest([1.0] * 8, slots=4) == 2.0
    assert kernel_model.longest([1.0] * 9, slots=4) == 3.0
    assert kernel_model.longest([3.0, 1.0, 1.0, 1.0, 1.0], slots=2) == 4.0  # 3 + 1 beside 1 + 1 + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_items_move_every_panel(plan, dtype: torch.dtype) -> None:
    """Stages of the Gram times 32 KB: each pixel of a tile off the diagonal comes twice, of a narrow map once."""
    shapes, size = [Images(2, 64, dtype).tap(tap) for tap in ("relu1_2", "relu2_2", "relu3_3")], dtype.itemsize
    times = (1, 1, 2)  # panels of relu3_3: two of each diagonal tile and four of the third, of four
    panels = [n * c // 64 * h * w * size // 128 * read for (n, c, h, w), read in zip(shapes, times, strict=True)]
    costs = kernel_model.gram_costs(plan, shapes, size, {"before": 0, "stage": 1, "after": 0})
    assert sum(costs) * 4 == sum(panels)
    of_gradient = {f"{kind}{part}": 0 for kind in ("", "narrow ") for part in ("before", "after")}
    of_gradient |= {"stage": 1, "narrow stage": 100}
    gradient = kernel_model.gradient_costs(plan, shapes, size, of_gradient)
    stages = 128 // (128 // size)
    assert sorted(gradient) == sorted(
        [100 * stages // 2] * (2 * 64 * 64 // 256)
        + [stages] * (2 * 32 * 32 // 128)
        + [2 * stages] * (2 * 2 * 16 * 16 // 128)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("layout", "shapes"),
    [
        ("nchw", [(2, 64, 5, 60), (1, 128, 9, 16), (1, 256, 3, 5)]),  # tiles that reach over the last pixel
        ("nhwc", [(2, 40, 16, 32), (1, 192, 16, 16), (1, 264, 8, 16)]),  # over the last channel
    ],
)
def test_the_gradient_has_the_tiles_and_stages_of_its_launch(plan, layout: str, shapes, dtype: torch.dtype) -> None:
    """As many products as the launch makes, executed on the CPU. It leaves out rows beyond the end: here are none."""
    kernel = f"gram_gradient_kernel<{kernel_model.DTYPES[str(dtype).removeprefix('torch.')][1]}>"
    rows = [row for row in tables.read(kernel_counts.TABLE) if (row["kernel"], row["architecture"]) == (kernel, "90")]
    products = {row["part"].removeprefix(f"{layout} "): int(row["HMMA"]) for row in rows}
    of_blocks = kernel_model.gradient_costs(plan, shapes, dtype.itemsize, products)
    launch, _ = cases_gram.gram_gradient(dtype, layout, shapes, upstream=False)
    assert kernel_model.WARPS * sum(of_blocks) == sum(counts(launch).products.values())


def test_a_prediction_is_the_slowest_of_three() -> None:
    bound = Prediction("kernel", "case", "bfloat16", "nchw", issue=2e-6, memory=1e-6, tensor=0.5e-6)
    assert (bound.predicted, bound.floor, bound.line()["percent_of_floor"]) == (2e-6, 1e-6, "50")
    assert (bound.line()["items"], bound.line()["balance"]) == ("", "")


def test_more_instructions_or_worse_balance_take_longer() -> None:
    """A launch of one item a slot, then of one more: half of the time nothing but that one is at work."""

    def predicted(stage: int, item_count: int) -> Prediction:
        plan = SimpleNamespace(runs=lambda maps, depth: (None, [[(0, 0, 0, 0, 0, 1, 0)]] * item_count))
        kernel = "gram_sum_kernel<__nv_bfloat16>"
        parts = {(kernel, "nchw before"): 0, (kernel, "nchw stage"): stage, (kernel, "nchw after"): 0}
        images = Images(1, 64, torch.bfloat16)
        return kernel_model.gram(plan, parts, {kernel: 2}, "gram_sum_kernel", images, "nchw")

    slots = 2 * ASSUMPTIONS.sms
    assert predicted(100, slots).balance == 1 and predicted(100, slots).waves == 1
    assert predicted(10**6, slots + 1).predicted == pytest.approx(2 * predicted(10**6, slots).predicted)
    assert predicted(150, slots).issue == pytest.approx(1.5 * predicted(100, slots).issue)
    # All SMs issue issued * 4 instructions a clock: 264 blocks of 8 warps.
    expected = slots * 8 * 100 / (132 * 4 * ASSUMPTIONS.issued * ASSUMPTIONS.clock)
    assert predicted(100, slots).issue == pytest.approx(expected)


def test_a_stream() -> None:
    """Two passes over the same bytes take twice as long, where issue is what bounds."""
    row = {"kernel": "pool_kernel<float, 8>", "needed": "16", "instructions": "1000"}
    slow, slower = kernel_model.stream([row], "", 10**9), kernel_model.stream([row, row], "", 10**9)
    assert slow.memory == 10**9 / ASSUMPTIONS.bandwidth and slower.predicted == 2 * slow.predicted == 2 * slow.issue
