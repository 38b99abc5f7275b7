"""What every launcher moves and multiplies over what it must: within the limits of host/traffic_table.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from host.build import build
from host.primitives.launch import launch, numbers
from host.traffic import Counts, Measurement, Result, Row, counts, measurements, scaled
from host.traffic_table import ROWS
from host.worker import load, run_apart


@pytest.mark.parametrize("measurement", measurements(ROWS), ids=lambda measurement: measurement.name)
def test_traffic_and_products(measurement: Measurement) -> None:
    complaints = [sentence for result in measurement.results() for sentence in result.complaints()]
    assert not complaints, "\n".join(complaints)


def test_every_launcher_has_a_row() -> None:
    launchers = set()
    for room in ("activation", "dists", "feature_loss", "gram", "lpips", "total_variation"):
        module = load(build("plain"), room)
        # What runs kernels takes the seed of their order.
        launchers |= {name for name, bound in vars(module).items() if "seed: " in (getattr(bound, "__doc__", "") or "")}
    assert launchers == {row.launcher for row in ROWS}, "host/traffic_table.py: expected a row for each launcher"


# --- the counter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "threads", "blocks", "read", "written", "products"),
    [
        ("indices", 32, 3, 0, 3 * 128, {}),
        ("neighbours", 64, 1, 256, 256, {}),
        ("buffer reuse", 64, 1, 256, 256, {}),  # reads four times
        ("packs", 32, 1, 4 + 16, 16, {}),  # every thread the same, by memcpy; and the word that says where
        ("copies", 32, 1, 512, 2048, {}),  # cp.async; its shared memory is no traffic
        ("matrix load", 32, 1, 512, 512, {}),
        ("product bf16", 32, 1, 1280, 512, {"mma_16x8x16": 1}),
        ("product fp16", 32, 5, 1280, 512, {"mma_16x8x16": 5}),
        ("product tf32", 32, 2, 1280, 512, {"mma_16x8x8_tf32": 2}),
    ],
)
def test_counts_of_primitives(
    name: str, threads: int, blocks: int, read: int, written: int, products: dict[str, int]
) -> None:
    """Bytes of `in` and `out`, each once."""
    given = np.full(512, 16, np.uint32)
    counted = counts(launch(name, given, 1024, blocks=blocks, threads=threads))
    assert counted == Counts({"in": read, "out": written}, products)


def test_a_launch_begins_at_zero() -> None:
    """Also after one that was stopped."""
    product, stopped = (
        launch("product bf16", numbers(320), 512),
        launch("divergent barrier", numbers(64), 64, threads=64),
    )
    first, again, said, last = run_apart(build("traffic"), [product, product, stopped, product], runner="traffic")
    assert "divergent barrier" in said
    assert first == again == last and first[1] == {"mma_16x8x16": 1}


# --- the limits -------------------------------------------------------------------------------------------------------


def test_scaling_by_hand() -> None:
    """x is read once, y twice; five quarters of the workspace."""
    counted = Counts({"x": 100, "y": 20, "partial": 50}, {})
    small = ({"x": 100, "y": 10}, {"partial": 40})
    full = ({"x": 1000, "y": 30}, {"partial": 400})
    assert scaled(counted, small, full) == 1000 + 60 + 500
    assert scaled(Counts({"x": 100, "y": 20}, {}), (small[0], {}), full) == 1000 + 60 + 400
    with pytest.raises(ValueError, match=r"buffers \['partial', 'x', 'y'\], the row names \['x', 'y'\]"):
        scaled(counted, (small[0], {}), (full[0], {}))


ROW = Row("launcher", lambda *_: launch("indices", numbers(1), 32), lambda *_: {}, (), passes={torch.bfloat16: 1})
GOOD = Result(ROW, "launcher", torch.bfloat16, needed=1000, moved=1100.0, products=1.25)


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (replace(GOOD, moved=1101.0), "launcher: moves 1.101 times the bytes needed, at most 1.1"),
        (replace(GOOD, products=1.26), "launcher: 1.260 times the products needed, at most 1.25"),
        (replace(GOOD, products=0.0), "launcher: tensor cores are not used, the row says otherwise"),
        (replace(GOOD, dtype=torch.float32), "launcher: tensor cores are used, the row says otherwise"),
    ],
)
def test_a_launcher_beyond_its_limits_is_found(result: Result, sentence: str) -> None:
    assert GOOD.complaints() == []
    assert result.complaints() == [sentence]


def test_products_of_a_launcher() -> None:
    """Three blocks of one product; three products of TF32 make one of fp32."""
    row = Row(
        "run",
        lambda *_: launch("product tf32", numbers(320), 128, blocks=3),
        lambda *_: {"in": 320 * 4, "out": 128 * 4},
        (("image",),),
        flop=lambda shapes: 2 * 16 * 8 * 8,
        passes={torch.float32: 3},
    )
    results = Measurement(row, ("image",), torch.float32, "nchw").results()
    assert [(result.traffic, result.products, result.complaints()) for result in results] == [(1.0, 1.0, [])] * 2


def test_a_limit_below_what_a_kernel_moves_is_found() -> None:
    (row,) = (row for row in ROWS if (row.launcher, row.variant) == ("total_variation", "value"))
    strict = Measurement(replace(row, traffic=1.0), ("image",), torch.float32, "nchw")
    said = [sentence for result in strict.results() for sentence in result.complaints()]
    assert len(said) == 2 and all("times the bytes needed, at most 1.0" in sentence for sentence in said)
