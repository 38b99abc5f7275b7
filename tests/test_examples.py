"""The examples that users copy from: a few steps of each."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from peer_torchvision import import_torchvision

from examples.drop_in import basicsr_loop, vae
from examples.paper import common, report, style, super_resolution
from perceptual_ops.compat.lpips import LPIPS

ROOT = Path(__file__).resolve().parent.parent


def test_basicsr_loop():
    torch.manual_seed(0)
    losses = basicsr_loop.train("random", steps=3, size=32, batch=1)
    assert len(losses) == 3 and all(0 < loss < float("inf") for loss in losses)


def test_vae():
    losses = vae.train(LPIPS(net="vgg", weights="stlpips"), steps=25, size=32)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_lightning_module():
    import_torchvision()  # which Lightning imports
    pytest.importorskip("pytorch_lightning", reason="Lightning is not installed")
    lightning_module = importlib.import_module("examples.drop_in.lightning_module")
    trainer = lightning_module.train(
        "random", steps=2, size=32, batch=2, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )
    found = trainer.callback_metrics
    assert found["content"] > 0 and 0 < found["lpips"] < 2


@pytest.mark.parametrize("name", ["basicsr_loop", "vae", "lightning_module"])
def test_three_lines_change_at_most(name):
    text = (ROOT / "examples" / "drop_in" / f"{name}.py").read_text()
    assert 1 <= text.count("# was: ") <= 3


# --- the paper's experiments ------------------------------------------------------------------------------------------


def test_when_the_optimiser_overtakes():
    assert style.running_least([3.0, 4.0, 2.0, 2.5]) == [3.0, 3.0, 2.0, 2.0]
    assert style.overtaken([3.0, 3.0, 2.0], 2.5) == 3
    assert style.overtaken([3.0, 3.0, 2.0], 1.0) == 4


def test_score_rows_mark_the_best_and_show_the_spread():
    found = {
        "pixel": [{"PSNR": 25.0, "ST-LPIPS alex": 0.3}, {"PSNR": 26.0, "ST-LPIPS alex": 0.4}],
        "feature": [{"PSNR": 24.0, "ST-LPIPS alex": 0.1}],
    }
    names, rows = report.score_rows(found)
    assert names == ["PSNR", "ST-LPIPS alex"]
    assert rows == [
        ["pixel", "**25.50 [25.00-26.00]**", "0.3500 [0.3000-0.4000]"],
        ["feature", "24.00", "**0.1000**"],
    ]


def test_tables_are_filled_in_and_again():
    page = "before\n<!-- speed -->\nold\n<!-- end -->\nafter <!-- end -->"
    once = report.filled(page, "speed", "| new |")
    assert once == "before\n<!-- speed -->\n| new |\n<!-- end -->\nafter <!-- end -->"
    assert report.filled(once, "speed", "| new |") == once
    for broken in (page.replace("speed", "levels"), page.replace("end", "")):
        with pytest.raises(ValueError, match="speed: expected the marks"):
            report.filled(broken, "speed", "")


def test_results_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "MODELS", tmp_path / "results")
    calls = []
    for _ in range(2):
        assert common.once("found", lambda: calls.append(1) or {"a": 0.5}) == {"a": 0.5}
    assert len(calls) == 1
    assert json.loads((tmp_path / "results" / "found.json").read_text()) == {"a": 0.5}


def test_scores_know_good_from_bad():
    scores = importlib.import_module("examples.paper.scores").scores(border=4)
    target = common.square(common.held_out()["cat"], 96)
    near = (target + 0.01 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    far = super_resolution.restored(None, target, 8)
    for name, score in scores.items():
        sign = 1 if name in report.HIGHER_IS_BETTER else -1
        assert sign * score(near, target) > sign * score(far, target), name
    assert scores["PSNR"](near, target) == pytest.approx(44.8, abs=1)  # noise of 2.55, by the norm of luma's weights
    assert scores["SSIM"](target, target) == 1
