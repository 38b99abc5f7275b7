"""The bench of several processes, on a small loss; and the bytes that a rank sends, counted and by the formula."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from process_group import on_processes, process_group
from sharded_cases import of_all, perceptual

from bench import sharded

pytestmark = pytest.mark.usefixtures("library")

LOSSES = {"tiny": lambda: perceptual(reduction="mean")}


def on_each(rank: int) -> list[tuple[int, int]]:
    sharded.LOSSES = LOSSES
    sent = sharded.call(rank, "tiny", (48, 20), torch.float64).sent
    return of_all((sent.rows, sent.sums))


def test_bytes_are_those_of_the_formula(tmp_path: Path) -> None:
    """Of images, the rows that others read; of the gradient, those that were read of others; all sums to all others."""
    # Bands of 24 rows: the windows of 6 and more rows of the deepest map, of stride 4, read 7 rows below and 8 above.
    row, number = 3 * 20 * 8, 8
    grams, counts, terms = 8 * 8 + 6 * 6, 2, 6
    sums = (grams + counts + terms) * number
    found = on_processes(2, tmp_path / "store", on_each)
    assert found == [((2 * 8 + 7) * row, sums), ((2 * 7 + 8) * row, sums)]


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def on_one(count: int, function: Any, *arguments: Any) -> list[Any]:
        store = tmp_path / f"store-{len(list(tmp_path.iterdir()))}"
        with process_group(store, size=count):
            return [function(0, *arguments)]

    monkeypatch.setattr(sharded, "LOSSES", LOSSES)
    monkeypatch.setattr(sharded, "RANKS", (1,))
    monkeypatch.setattr(sharded, "LARGE", (48, 20))
    monkeypatch.setattr(sharded, "on_ranks", on_one)
    assert sharded.main([f"--out={tmp_path / 'out'}"]) == 0
    (path,) = (tmp_path / "out").iterdir()
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert path.name.endswith("-sharded.csv") and tuple(row) == sharded.COLUMNS
    assert float(row["gradient_error"]) < 1e-10 and float(row["allocated_mb"]) > 0
    assert row["rows_kb"] == row["sums_kb"] == "0" and not row["killed_s"]
    assert "tiny" in capsys.readouterr().out
