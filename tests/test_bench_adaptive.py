"""The benches of the VAE-GAN: adaptive weights and curves; none looks at times."""

from __future__ import annotations

import csv

import pytest
from peers import features, peer, torchvision_gives

from bench import adaptive_weight, memory, timing, vae_gan, whole_bench, whole_report
from bench.adaptive_weight import AdaptiveCase


def in_this_process(function, *arguments):
    return function(*arguments)


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_end_to_end(tmp_path, capsys, monkeypatch):
    """Without lpips, which test_adaptive_weight.py compares with; a variant that differs would be incorrect."""
    cases = (AdaptiveCase(1, 32, 32, ("plain", "ours fp32"), rounds=2, weights=2),)
    monkeypatch.setattr(timing, "last_level_cache", lambda device: timing.MIB)
    monkeypatch.setattr(adaptive_weight, "CASES", cases)
    monkeypatch.setattr(whole_bench, "in_fresh_process", in_this_process)
    assert adaptive_weight.main(["--device=cpu", f"--out={tmp_path}"]) == 0
    (path,) = tmp_path.iterdir()
    assert path.name.endswith("-adaptive-weight.csv")
    rows = rows_of(path)
    assert [row["variant"] for row in rows] == ["plain", "ours fp32"]
    for row in rows:
        assert tuple(row) == whole_report.COLUMNS
        assert row["case"] == "2 adaptive weights 1x32x32" and row["status"] == "passed" and row["count"] == "2"
        assert float(row["allocated_mb"]) > 0
    assert "2 adaptive weights 1x32x32: " in capsys.readouterr().out


@pytest.mark.parametrize(("theirs", "verdict"), [(1.71, "reached"), (1.69, "missed")])
def test_the_goal_compares_with_the_package_lpips(theirs, verdict):
    timings = {"lpips": timing.Timing(theirs, theirs, theirs, 5), "ours fp32": timing.Timing(1, 1, 1, 5)}
    outcome = whole_report.Outcome(AdaptiveCase(2, 128, 128), timings=timings, peaks={"lpips": memory.Peak(1)})
    (line,) = adaptive_weight.notes([outcome], "cpu")
    assert line.startswith(f"goal {verdict}: 1 adaptive weight 2x128x128: {theirs}x")


@pytest.mark.filterwarnings("ignore::UserWarning")  # torchvision's of deprecated arguments
def test_curves(tmp_path, monkeypatch):
    peer("lpips")
    pytest.importorskip("skimage", reason="scikit-image, whose photographs are used, is not installed")
    monkeypatch.setattr(vae_gan, "in_fresh_process", in_this_process)
    settings = ["--device=cpu", "--steps=2", "--start=2", "--size=32", "--batch=1", "--weights=random"]
    with torchvision_gives(vgg16=features("vgg16")):
        assert vae_gan.main([*settings, f"--out={tmp_path}"]) == 0
    (path,) = tmp_path.iterdir()
    rows = rows_of(path)
    assert [row["run"] for row in rows] == ["lpips", "lpips NHWC", "ours"]  # of the first step alone
    assert tuple(rows[0]) == vae_gan.COLUMNS
    for row in rows:
        assert float(row["lpips"]) == pytest.approx(float(rows[0]["lpips"]), rel=1e-5)
        assert float(row["weight"]) == pytest.approx(float(rows[0]["weight"]), rel=1e-4)


def test_differences_of_curves():
    curve = [{"l1": 1.0, "lpips": 1.0}, {"l1": 2.0, "lpips": 2.0}]
    other = [{"l1": 1.0, "lpips": 1.1}, {"l1": 2.0, "lpips": 3.0}]
    assert vae_gan.difference(other, curve, 1) == pytest.approx((0.05, 0.05))
    assert vae_gan.difference(other, curve, 2) == pytest.approx((0.25, 0.15))
