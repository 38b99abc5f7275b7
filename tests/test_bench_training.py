"""The bench of training: curves, verdicts, compilations. No test here looks at how long anything takes."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from bench import memory

pytest.importorskip("skimage", reason="scikit-image, whose photographs are used, is not installed")

from bench import training


@pytest.fixture(autouse=True)
def small_style(monkeypatch):
    whole = training.style_image()
    monkeypatch.setattr(training, "style_image", lambda: whole[..., :48, :48])


@cache
def eager_on_mixed_shapes():
    return training.train(training.MIXED_RUN, "random", (2, 32, 32), 4, "cpu")


def test_training_makes_the_same_curves(tmp_path):
    curves = {name: training.train(name, "random", (2, 32, 32), 3, "cpu") for name in ("plain", "plain NHWC", "ours")}
    for curve in curves.values():
        assert len(curve.losses) == 3 and curve.peak.allocated > 0
        assert max(training.differences(curve, curves["plain"])) < 1e-3
    path = tmp_path / "curves.csv"
    training.write_curves(path, curves)
    assert len(path.read_text().splitlines()) == 4


def test_training_says_what_is_too_far_apart():
    def curve(*losses: float) -> training.Curve:
        return training.Curve(list(losses), 1.0, memory.Peak(1, 1))

    curves = {"plain": curve(1.0, 2.0), "plain NHWC": curve(1.0, 2.2), "ours": curve(1.0, 2.3)}
    assert training.verdicts(curves) == []
    assert len(training.verdicts(curves | {"ours": curve(1.0, 2.5)})) == 2
    assert len(training.verdicts(curves | {"ours": curve(1.0, math.nan)})) == 2


@pytest.mark.parametrize("name", ["ours, mixed shapes, compiled loss", "ours, mixed shapes, compiled step"])
def test_mixed_shapes_compile_twice_at_most(library: None, name, monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(training, "MIXED", ((3, 32, 32), (2, 48, 40), (4, 40, 48), (2, 32, 56)))
    compiled = training.train(name, "random", (2, 32, 32), 4, "cpu")  # raises at a third compilation
    assert max(training.differences(compiled, eager_on_mixed_shapes())) < 1e-4
