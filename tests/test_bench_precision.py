"""The table of fp32, fp16 and bf16 over photographs: its errors are those of rounding, and the one kept is whole."""

from __future__ import annotations

import csv
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from bench import precision
from perceptual_ops import LPIPS
from perceptual_ops.recipes.photographs import held_out_photographs

pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network over two photographs."""
    two = dict(list(held_out_photographs().items())[:2])
    monkeypatch.setattr(precision, "held_out_photographs", lambda: two)
    monkeypatch.setattr(precision, "LOSSES", {"LPIPS alex": precision.LOSSES["LPIPS alex"]})
    monkeypatch.setattr(precision, "IMAGES", {"spoiled": precision.IMAGES["spoiled"]})


def table(folder: Path) -> list[dict[str, str]]:
    assert precision.main(folder / "precision.csv", "random", 40) == 0
    with (folder / "precision.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_errors_are_those_of_rounding(small: None, tmp_path: Path) -> None:
    found = table(tmp_path)
    assert [row["dtype"] for row in found] == ["float32", "float16", "bfloat16"]
    for row, eps in zip(found, (2**-23, 2**-10, 2**-7), strict=True):
        assert (row["loss"], row["images"], row["pairs"]) == ("LPIPS alex", "spoiled", "4")
        assert 0 < float(row["value_median"]) <= float(row["value_worst"]) < 128 * eps
        assert 1 - 16 * eps < float(row["cosine_worst"]) <= float(row["cosine_median"]) <= 1


class Halved(LPIPS):
    """Off by half its value in fp16."""

    def forward(self, output, target):
        value = super().forward(output, target)
        return value / 2 if self.compute_dtype == torch.float16 else value


def test_a_wrong_value_shows(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "LOSSES", {"LPIPS alex": partial(Halved, "alex", reduction="mean")})
    _, half, _ = table(tmp_path)
    assert 0.4 < float(half["value_median"]) < 0.6


def kept() -> list[dict[str, str]]:
    with precision.TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_that_is_kept_is_whole() -> None:
    rows = kept()
    assert tuple(rows[0]) == precision.COLUMNS
    dtypes = [str(dtype).removeprefix("torch.") for dtype in precision.DTYPES]
    expected = list(product(precision.LOSSES, precision.IMAGES, dtypes))
    assert [(row["loss"], row["images"], row["dtype"]) for row in rows] == expected


def test_the_table_that_is_kept_ranks_the_dtypes() -> None:
    """As README does: fp16 is nearer to fp32 than bf16 is, in every row."""
    rows = kept()
    for narrower, wider in ((1, 0), (2, 1)):
        for less, more in zip(rows[narrower::3], rows[wider::3], strict=True):
            assert float(less["value_worst"]) > float(more["value_worst"])
            assert float(less["cosine_worst"]) < float(more["cosine_worst"])
