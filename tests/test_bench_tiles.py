"""The benches of large images in tiles, on small ones; none looks at times."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from bench import large_photograph, tiles
from perceptual_ops import LPIPS, PerceptualLoss

pytestmark = pytest.mark.usefixtures("library")


def in_this_process(function, *arguments):
    return function(*arguments)


def test_end_to_end(tmp_path, capsys, monkeypatch):
    losses = {
        "style": lambda: PerceptualLoss(
            "vgg11", weights="random", content_layers=None, style_layers=["relu1_1", "relu2_1"]
        ),
        "LPIPS": lambda: LPIPS("alex", weights="random"),
    }
    monkeypatch.setattr(tiles, "LOSSES", losses)
    monkeypatch.setattr(tiles, "TILES", {96: (tiles.WHOLE, "32"), 100: ("auto",)})
    monkeypatch.setattr(tiles, "in_fresh_process", in_this_process)
    assert tiles.main(["--rounds=2", f"--out={tmp_path}"]) == 0
    (path,) = tmp_path.iterdir()
    assert path.name.endswith("-tiles.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row[key] for key in tiles.KEYS) for row in rows] == [
        (loss, *case) for loss in losses for case in (("96", "whole"), ("96", "32"), ("100", "auto"))
    ]
    assert all(tuple(row) == tiles.COLUMNS and row["count"] == "2" and float(row["allocated_mb"]) > 0 for row in rows)
    of_whole, run_pixels = ([row[name] for row in rows[:3]] for name in ("of_whole", "run_pixels"))
    assert of_whole[0] == "1" and of_whole[1] and not of_whole[2]
    assert float(run_pixels[0]) == 1 < float(run_pixels[1])
    assert "LPIPS  100   auto" in capsys.readouterr().out


def test_a_photograph_in_a_file(tmp_path, capsys, monkeypatch):
    limits = []
    monkeypatch.setattr(large_photograph, "COMPARED", 40)
    monkeypatch.setattr(large_photograph, "in_fresh_process", in_this_process)
    monkeypatch.setattr(large_photograph.resource, "setrlimit", lambda *limit: limits.append(limit))
    assert large_photograph.main(["--side=50", "--limit=1500", "--weights=random", f"--folder={tmp_path}"]) == 0
    assert np.load(tmp_path / "photograph.npy").shape == (50, 50, 3)
    gradient = torch.from_numpy(np.load(tmp_path / "gradient.npy"))
    assert gradient.shape == (3, 50, 50) and gradient.abs().max() > 0
    assert limits == 2 * [(large_photograph.resource.RLIMIT_DATA, (1500 * 10**6,) * 2)]
    monkeypatch.setattr(large_photograph, "TOLERANCE", 0.0)
    monkeypatch.setattr(large_photograph, "difference", lambda *arguments: 1e-9)
    assert large_photograph.main(["--side=50", "--weights=random", f"--folder={tmp_path}"]) == 1
    assert "1.0e-09" in capsys.readouterr().out
