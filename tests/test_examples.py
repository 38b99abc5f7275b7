"""The examples that users copy from: a few steps of each."""

import importlib
import json
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peer_torchvision import import_torchvision

from examples.drop_in import basicsr_loop, vae, vae_gan
from examples.paper import __main__ as experiments
from examples.paper import checks, common, levels, qt_resources, report, style, super_resolution
from perceptual_ops.compat.lpips import LPIPS
from perceptual_ops.recipes import StyleNet
from perceptual_ops.recipes.feed_forward import training_crops
from perceptual_ops.recipes.photographs import training_photographs
from perceptual_ops.recipes.training_log import Log, read_log

ROOT = Path(__file__).resolve().parent.parent


def without_steps(monkeypatch):
    """Optimizers that leave the weights alone: a run whose loss has no gradient is like this."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda optimizer, closure=None: closure() if closure else None)


def test_basicsr_loop(monkeypatch):
    """What the perceptual loss alone changes in the weights shows in the next step's loss."""
    monkeypatch.setattr(basicsr_loop.nn, "L1Loss", lambda: lambda output, gt: 0 * output.mean())

    def losses():
        torch.manual_seed(0)
        return basicsr_loop.train("random", steps=3, size=32, batch=1)

    trained = losses()
    without_steps(monkeypatch)
    left = losses()
    assert len(trained) == 3 and all(0 < loss < float("inf") for loss in trained)
    assert trained[0] == left[0] and trained[1] != left[1] and trained[2] != left[2]


def test_vae():
    metric = LPIPS(net="alex", weights="stlpips")
    losses = vae.train(metric, steps=25, size=32)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    without = vae.train(lambda output, images: metric(output.detach(), images), steps=2, size=32)
    assert without[0] == losses[0] and without[1] != losses[1]


def test_vae_gan(tmp_path):
    log = tmp_path / "vae_gan.log.csv"
    settings = "--steps 14 --start 11 --size 32 --batch 2 --weights stlpips --device cpu"
    vae_gan.main([*settings.split(), f"--log={log}"])
    rows = read_log(log)
    nll = [row["l1"] + row["lpips"] for row in rows]
    assert len(rows) == 14 and sum(nll[-4:]) < 0.9 * sum(nll[:4])
    assert all(row["weight"] > 0 for row in rows)
    assert [row["discriminator"] > 0 for row in rows] == [False] * 10 + [True] * 4
    assert rows[0]["loss"] == pytest.approx(nll[0] + vae_gan.KL_WEIGHT * rows[0]["kl"])
    last = rows[-1]
    adversarial = vae_gan.DISCRIMINATOR_WEIGHT * last["weight"] * last["adversarial"]
    assert last["loss"] == pytest.approx(nll[-1] + vae_gan.KL_WEIGHT * last["kl"] + adversarial, rel=1e-5)


def test_vae_gan_gives_each_network_the_gradients_of_its_own_loss(tmp_path, monkeypatch):
    seen = []

    def hinge_loss(discriminator, real, fake):
        seen.append((fake.requires_grad, [parameter.grad for parameter in discriminator.parameters()]))
        return hinge(discriminator, real, fake)

    hinge = vae_gan.hinge_loss
    monkeypatch.setattr(vae_gan, "hinge_loss", hinge_loss)
    metric = LPIPS(net="alex", weights="random")
    vae_gan.train(metric, training_photographs(), Log(tmp_path / "log.csv"), steps=1, size=32, batch=1, start=1)
    assert seen == [(False, [None] * 8)]


def test_lightning_module(monkeypatch):
    import_torchvision()  # which Lightning imports
    pytest.importorskip("pytorch_lightning", reason="Lightning is not installed")
    lightning_module = importlib.import_module("examples.drop_in.lightning_module")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trained = lightning_module.train("random", steps=2, size=32, batch=2, **quiet).callback_metrics
    assert trained["content"] > 0 and 0 < trained["lpips"] < 2
    without_steps(monkeypatch)
    left = lightning_module.train("random", steps=2, size=32, batch=2, **quiet).callback_metrics
    assert trained["content"] != left["content"]  # of the second step


@pytest.mark.parametrize("name", ["basicsr_loop", "vae", "vae_gan", "lightning_module"])
def test_three_lines_change_at_most(name):
    text = (ROOT / "examples" / "drop_in" / f"{name}.py").read_text()
    assert 1 <= text.count("# was: ") <= 3


# --- the paper's experiments ------------------------------------------------------------------------------------------


def test_when_the_optimiser_overtakes():
    assert style.running_least([3.0, 4.0, 2.0, 2.5]) == [3.0, 3.0, 2.0, 2.0]
    assert style.overtaken([3.0, 3.0, 2.0], 2.5) == 3
    assert style.overtaken([3.0, 3.0, 2.0], 1.0) is None


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


@pytest.mark.parametrize("version", [1, 3])
def test_pictures_in_qt_resources(version):
    """A root with a folder that holds two files, one of them packed."""
    names, offsets = b"", {}
    for name in ("art", "a.webp", "packed.webp"):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    time = b"" if version == 1 else bytes(8)
    tree = [
        struct.pack(">IHII", 0, 2, 1, 1),
        struct.pack(">IHII", offsets["art"], 2, 2, 2),
        struct.pack(">IHII", offsets["a.webp"], 0, 0, 0),
        struct.pack(">IHII", offsets["packed.webp"], 1, 0, 8),
    ]
    tree = b"".join(entry + time for entry in tree)
    contents = struct.pack(">I", 4) + b"RIFF" + struct.pack(">I", 2) + b"zz"
    head = struct.pack(">4s4I", b"qres", version, 20, 20 + len(tree), 20 + len(tree) + len(contents))
    assert list(qt_resources.entries(head + tree + contents + names)) == [("a.webp", b"RIFF")]
    with pytest.raises(ValueError, match="expected Qt resources of version 1 to 3"):
        qt_resources.entries(b"RIFF" + head[4:])


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


@pytest.fixture
def small_experiments(tmp_path, monkeypatch, without_plots):
    """The experiments with few steps and small pictures, which leave what they find in `tmp_path`."""
    options = {"steps": 2, "batch": 2, "size": 32, "save_every": 1, "precision": "fp32"}  # bf16 is slow without AVX-512
    images = {name: common.square(image, 64) for name, image in list(common.held_out().items())[:2]}
    replacements = {
        "MODELS": tmp_path / "models",
        "RESULTS": tmp_path / "docs" / "paper",
        "ROOT": tmp_path,
        "PHOTOGRAPHS": tmp_path / "nowhere",
        "SCENES": tmp_path / "nowhere",
        "STYLE": tmp_path / "nowhere",
        "TRAINED": replace(super_resolution.TRAINED, **options),
        "ITERATIONS": (2, 3, 5),
        "SHOWN": 32,
        "SIZES": (32,),
        "SEEDS": {4: (0, 1), 8: (0,)},
        "CROPS": dict.fromkeys(images, (0, 0)),
        "CROP": 48,
        "STYLE_SIDE": 64,
        "CONTENT_LEVELS": ("relu1_2", "relu2_2"),
        "STYLE_LEVELS": ("relu1_2", "relu2_2"),
        "LEVELS": ("relu1_2", "relu2_2"),
        "STEPS": 2,
        "held_out": lambda side=None: images,
    }
    modules = (common, style, super_resolution, levels, checks, report)
    for name, value in replacements.items():
        places = [module for module in modules if hasattr(module, name)]
        assert places, name
        for module in places:
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(levels, "square", lambda image, side: image)
    for module in (style, checks):
        monkeypatch.setattr(module, "OPTIONS", replace(module.OPTIONS, **options))
    return tmp_path / "docs"


def test_experiments_fill_their_pages(small_experiments, capsys):
    docs = small_experiments
    (docs / "paper").mkdir(parents=True)
    for page in ("paper.md", "levels.md"):
        text = (ROOT / "docs" / page).read_text()
        for name in report.TABLES:
            text = report.filled(text, name, "") if f"<!-- {name} -->" in text else text
        (docs / page).write_text(text)
    names = ["style", "objective", "speed", "sr-x4-1", "sr-x4", "sr-x8", "inversion", "levels-2", "levels", "report"]
    for name in names:
        experiments.main([name])
    assert "checks stays as it is, not run" in capsys.readouterr().err
    for page in ("paper.md", "levels.md"):
        text = (docs / page).read_text()
        links = re.findall(r"!\[.*\]\((.*)\)", text)
        assert links and all((docs / link).stat().st_size > 1000 for link in links)
        empty = re.findall(r"<!-- (.*) -->\n\n?<!-- end -->", text)
        assert empty == (["checks"] if page == "paper.md" else [])
    found = json.loads((docs / "paper" / "sr-x4.json").read_text())["scores"]
    assert [len(runs) for runs in found.values()] == [1, 2, 2, 2, 2]
    assert f"{found['bicubic'][0]['PSNR']:.2f}" in (docs / "paper.md").read_text()


def test_the_model_and_the_optimiser_minimise_the_same(small_experiments, monkeypatch):
    """The loss that `objective` shows is that of the training's log, whose first row is of the palette alone."""
    monkeypatch.setattr(style, "OPTIONS", replace(style.OPTIONS, precision="fp32"))
    logged = read_log(style.model_file().with_suffix(".log.csv"))[0]["loss"]
    crops = training_crops(style.training_pictures(style.SCENES), style.OPTIONS)
    images = torch.stack([crops[i] for i in range(style.OPTIONS.batch)])
    begun = StyleNet(style=style.style_picture())(images)
    assert logged == pytest.approx(style.objective()(begun, images).item(), rel=1e-3)


def test_smoothness_counts_the_same_at_every_size(small_experiments, monkeypatch):
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for side in (32, 64):
        monkeypatch.setattr(style, "SHOWN", side)
        image = noise[..., :side, :side]
        found.append(style.objective()(image, image, return_terms=True)[1]["tv"].item())
    assert found[0] > 0 and found[1] == pytest.approx(found[0], rel=0.1)


def test_what_is_said_of_the_objective(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    rows = {
        "a": {"photograph": 5.0, "palette": 4.0, "one pass": 2.0, "optimised": 1.0, "overtaken": 20},
        "b": {"photograph": 5.0, "palette": 4.0, "one pass": 6.0, "optimised": 1.0, "overtaken": 1},
        "c": {"photograph": 5.0, "palette": 4.0, "one pass": 0.5, "optimised": 1.0, "overtaken": None},
    }
    (tmp_path / "objective.json").write_text(json.dumps({"pictures": rows}))
    said, _, table = report.objective_text().partition("\n\n")
    assert "the loss of 2 of 3 photographs" in said
    assert "after 1 evaluations at the earliest, never at the latest, after 20 evaluations in the middle" in said
    assert "| c | 5.000 | 4.000 | 0.500 | 1.000 | never |" in table


def test_checks_see_a_difference(small_experiments, tmp_path, monkeypatch):
    """The run that is compared, and that what is compared differs with a seed."""
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    checks.run(one)
    monkeypatch.setattr(checks, "OPTIONS", replace(checks.OPTIONS, seed=1))
    checks.run(other)
    for measured in (checks.curve, checks.weights, checks.gradient):
        assert torch.equal(measured(one), measured(one))
        assert not torch.equal(measured(one), measured(other))


def test_a_run_that_was_not_killed_is_no_evidence(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "command", lambda out: [sys.executable, "-c", ""])
    with pytest.raises(RuntimeError, match="left no checkpoint"):
        checks.start_and_kill(tmp_path / "model.safetensors")
