"""The bench of LPIPS and DISTS: verdicts, files, and peers that are not there; none looks at times."""

from __future__ import annotations

import csv
import sys

import pytest
import torch
from torch import nn

from bench import memory, metrics, peers, timing, whole_bench, whole_report
from bench.metric_cases import ALEX_NAMES, CASES, DISTS_NAMES, EVERY, VARIANTS, MetricCase, own_metric
from bench.whole_case import Variant, verify

CPU = torch.device("cpu")
NAMES = ("lpips", "plain", "ours fp32")
WITHOUT_COMPILED = tuple(name for name in EVERY if "compiled" not in name)


@pytest.fixture
def small(monkeypatch):
    """Two tiny cases, a cache that is quick to evict, and memory measured in this process."""
    cases = [MetricCase(1, 40, 56, NAMES, 2, metric="lpips-alex", gradient=gradient) for gradient in (True, False)]
    monkeypatch.setattr(timing, "last_level_cache", lambda device: timing.MIB)
    monkeypatch.setattr(metrics, "CASES", {"cpu": cases})
    monkeypatch.setattr(whole_bench, "in_fresh_process", lambda function, *arguments: function(*arguments))


@pytest.fixture
def without_peers(monkeypatch):
    """None of the peers can be imported."""
    for name in ("lpips", "torchmetrics", "DISTS_pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    peers.missing.cache_clear()
    yield
    peers.missing.cache_clear()


def run(folder) -> tuple[int, list[dict[str, str]]]:
    code = metrics.main(["--device=cpu", f"--out={folder}"])
    (path,) = folder.iterdir()
    assert path.name.endswith("-metrics.csv")
    with path.open(newline="") as file:
        return code, list(csv.DictReader(file))


def needs(package: str) -> None:
    if reason := peers.missing(package):
        pytest.skip(reason)


def test_end_to_end(tmp_path, capsys, small):
    code, rows = run(tmp_path)
    assert code == 0
    reference = "plain" if peers.missing("lpips") else "lpips"
    cases = ("lpips-alex 1x40x56", "lpips-alex forward 1x40x56")
    assert [(row["case"], row["variant"]) for row in rows] == [
        (case, name) for case in cases for name in (reference, "ours fp32")
    ]
    for row in rows:
        assert tuple(row) == whole_report.COLUMNS
        assert row["status"] == "passed" and row["count"] == "2"
        assert 0 < float(row["low_ms"]) <= float(row["median_ms"]) <= float(row["high_ms"])
        assert float(row["allocated_mb"]) > 0 and row["resident_mb"]
    # No gradient, and nothing kept for one.
    of_gradient, of_forward = (float(row["allocated_mb"]) for row in rows if row["variant"] == "ours fp32")
    assert of_forward < of_gradient
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("lpips-alex") for line in lines) == len(rows)


class Wrong(nn.Module):
    """The distance, but not its gradient."""

    def __init__(self, metric: str) -> None:
        super().__init__()
        self.metric = own_metric(metric)

    def forward(self, output, target):
        distance = self.metric(output, target)
        return (distance + distance.detach()) / 2


def test_a_wrong_gradient_is_incorrect_and_not_timed(tmp_path, capsys, monkeypatch, small):
    monkeypatch.setitem(VARIANTS, "ours fp32", Variant(Wrong))
    code, rows = run(tmp_path)
    assert code == 1
    assert rows[0]["status"].startswith("incorrect: ours fp32: gradient") and rows[0]["median_ms"] == ""
    assert [row["status"] for row in rows[1:]] == ["passed", "passed"]  # the distance alone is right
    assert "incorrect: lpips-alex 1x40x56: ours fp32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("metric", "gradient", "names"),
    [
        ("lpips-vgg", True, WITHOUT_COMPILED),
        ("lpips-alex", True, ALEX_NAMES),
        ("lpips-alex", False, ALEX_NAMES),
        ("dists", True, DISTS_NAMES),
    ],
)
def test_every_variant_is_the_same_distance(metric, gradient, names):
    case = MetricCase(2, 32, 56, names, metric=metric, gradient=gradient)
    calls = {name: case.call(name, CPU) for name in case.distinct("cpu")}
    assert len(calls) >= 3
    assert all(len(call()) == 1 + gradient for call in calls.values())
    assert verify(case, calls) == {}


def test_absent_peers_are_left_out_with_a_sentence(without_peers):
    for case in CASES["cpu"]:
        names = case.distinct("cpu")
        assert names[0] == "plain" and names[1:3] == ("ours fp32", "ours bf16")
        assert not any(VARIANTS[name].package for name in names)
    said = metrics.notes([], "cpu")
    assert [line.partition(" is left out: ")[0] for line in said] == ["lpips", "torchmetrics", "DISTS_pytorch"]
    assert all("pip install --no-deps" in line for line in said)


@pytest.mark.parametrize("package", ["lpips", "torchmetrics", "DISTS_pytorch"])
def test_peers_are_frozen_copies_of_our_random_trunk(package):
    needs(package)
    metric = "dists" if package == "DISTS_pytorch" else "lpips-vgg"
    theirs = VARIANTS[package].build(metric)
    first = next(layer for layer in theirs.modules() if isinstance(layer, nn.Conv2d))
    own = next(layer for layer in own_metric(metric)._network.modules() if isinstance(layer, nn.Conv2d))
    torch.testing.assert_close(first.weight, own.weight, rtol=0, atol=0)
    assert not first.weight.requires_grad


def test_goals_compare_with_the_package_lpips():
    outcome = whole_report.Outcome(
        MetricCase(4, 256, 256),
        timings={"lpips": timing.Timing(4, 4, 4, 5), "ours fp32": timing.Timing(2, 2, 2, 5)},
        peaks={"lpips": memory.Peak(1600), "ours fp32": memory.Peak(100)},
    )
    (line,) = metrics.goals(outcome, "cpu")
    assert line.startswith("goal reached: lpips-vgg 4x256x256, ours fp32: 2.00x and 1/16;")
    (line,) = metrics.goals(outcome, "cuda")
    assert line.startswith("goal missed")
    del outcome.timings["lpips"]
    assert metrics.goals(outcome, "cpu") == []
