"""The benches of large images in tiles, on small ones; none looks at times."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from bench_runs import in_this_process, run, suite_of

from bench import large_photograph, results
from bench.case import Variant, named, of_size
from bench.suites import tiles
from perceptual_ops import LPIPS, PerceptualLoss

pytestmark = pytest.mark.usefixtures("library")

LAYERS = ["relu1_1", "relu2_1"]


def test_end_to_end(tmp_path, capsys, monkeypatch):
    losses = {
        "style": partial(PerceptualLoss, "vgg11", weights="random", content_layers=None, style_layers=LAYERS),
        "LPIPS": partial(LPIPS, "alex", weights="random"),
    }
    settings = {"ours": {}, "ours, tiles of 32": {"tile_size": 32}, "ours, tiles": {"tile_size": "auto"}}
    variants = named(*(Variant(name, partial(tiles.own_loss, **given), chunk=None) for name, given in settings.items()))
    names = {96: ("ours", "ours, tiles of 32"), 100: ("ours, tiles",)}
    monkeypatch.setattr(tiles, "LOSSES", losses)
    monkeypatch.setattr(tiles.TileCase, "variants", variants)
    monkeypatch.setattr(tiles, "VARIANTS", variants)
    cases = [
        tiles.TileCase(tuple(f"{name} fp32" for name in chosen), loss=loss, rounds=2, **of_size(f"1x{side}x{side}"))
        for loss in losses
        for side, chosen in names.items()
    ]
    with suite_of(*cases, name="tiles"):
        code, rows = run(tmp_path)
    assert code == 0
    assert [(row["case"].split()[0], row["case"].split("x")[1], row["variant"]) for row in rows] == [
        (loss, str(side), name) for loss in losses for side, chosen in names.items() for name in chosen
    ]
    assert all(tuple(row) == results.COLUMNS and row["status"] == "passed" for row in rows)
    assert all(row["count"] == "2" and float(row["allocated_mb"]) > 0 for row in rows)
    for whole, in_tiles, alone in (rows[:3], rows[3:]):
        assert whole["ratio"] == "1" and in_tiles["ratio"] and not alone["ratio"]
        assert 0 < float(in_tiles["error"]) < 1e-2, "the tiles' own rounding, and nothing else"
    assert "LPIPS 1x100x100" in capsys.readouterr().out


def test_a_photograph_in_a_file(tmp_path, capsys, monkeypatch):
    limits = []
    monkeypatch.setattr(large_photograph, "COMPARED", 40)
    monkeypatch.setattr(large_photograph, "in_fresh_process", in_this_process)
    monkeypatch.setattr(large_photograph.resource, "setrlimit", lambda *limit: limits.append(limit))
    options = ["--side=50", "--weights=random", f"--folder={tmp_path}", f"--out={tmp_path}"]
    assert large_photograph.main([*options, "--limit=1500"]) == 0
    assert np.load(tmp_path / "photograph.npy").shape == (50, 50, 3)
    gradient = torch.from_numpy(np.load(tmp_path / "gradient.npy"))
    assert gradient.shape == (3, 50, 50) and gradient.abs().max() > 0
    assert limits == 2 * [(large_photograph.resource.RLIMIT_DATA, (1500 * 10**6,) * 2)]
    (table,) = tmp_path.glob("*-photograph.csv")
    small, large = results.read(table)
    assert tuple(small) == large_photograph.COLUMNS
    assert (small["side"], large["side"], large["limit_mb"]) == ("40", "50", "1500")
    assert 0 <= float(small["error"]) < 1e-3 and not large["error"]
    assert float(large["cpu_seconds"]) >= 0 and float(large["resident_mb"]) > 100
    monkeypatch.setattr(large_photograph, "TOLERANCE", 0.0)
    monkeypatch.setattr(large_photograph, "difference", lambda *arguments: 1e-9)
    assert large_photograph.main(options) == 1
    assert "1.0e-09" in capsys.readouterr().out
    assert len(results.read(table)) == 2, "what is wrong is not kept"
