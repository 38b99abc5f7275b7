"""What training loops share: the same curve after a kill and on two processes, logs, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from perceptual_ops.images import write_image
from perceptual_ops.recipes import Training, TrainingOptions, load_model, train_style, train_super_resolution
from perceptual_ops.recipes.crops import RandomCrops
from perceptual_ops.recipes.training_log import read_log

ROOT = Path(__file__).resolve().parent.parent
TINY = TrainingOptions(steps=6, batch=2, size=32, save_every=2)


class Tiny(nn.Module):
    """(N, 3, H, W) -> the same, with random numbers in training."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, images):
        return images + self.dropout(self.convolution(images))


class Stop(Exception):
    pass


@pytest.fixture
def pictures(tmp_path):
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        blocks = torch.rand(3, 12, 10, generator=generator).repeat_interleave(5, 1).repeat_interleave(5, 2)
        write_image(folder / f"{number}.png", blocks)
    return sorted(folder.iterdir())


def run(pictures, out, options=TINY, stop_after=None, on_step=None, **settings):
    """Trains `Tiny` to give back its input; raises Stop in the middle of a step."""
    with Training(
        Tiny, RandomCrops(pictures, options.size), out, options, torch.device("cpu"), settings, on_step
    ) as training:
        for images in training.batches():
            if training.done == stop_after:
                raise Stop
            with training.autocast():
                loss = (training.network(images).float() - images).square().mean()
            training.update(loss, {"error": loss.detach().sqrt()})
        return training.model.state_dict()


def losses(out):
    return [row["loss"] for row in read_log(out.with_suffix(".csv"))]


@pytest.mark.parametrize("stop_after", [1, 2, 5])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_goes_on_with_the_same_bits(pictures, tmp_path, stop_after, precision):
    options = TrainingOptions(steps=6, batch=2, size=32, save_every=2, precision=precision)
    whole = run(pictures, tmp_path / "whole.pt2", options)
    with pytest.raises(Stop):
        run(pictures, tmp_path / "killed.pt2", options, stop_after)
    resumed = run(pictures, tmp_path / "killed.pt2", options)
    assert losses(tmp_path / "killed.pt2") == losses(tmp_path / "whole.pt2")
    assert len(losses(tmp_path / "whole.pt2")) == 6
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_loss_falls_and_steps_are_reported(pictures, tmp_path):
    seen = []
    options = TrainingOptions(steps=40, batch=2, size=32, lr=0.01, save_every=20)
    run(pictures, tmp_path / "model.pt2", options, on_step=lambda done, numbers: seen.append((done, dict(numbers))))
    curve = losses(tmp_path / "model.pt2")
    assert sum(curve[-5:]) < 0.3 * sum(curve[:5])
    assert [done for done, _ in seen] == list(range(1, 41))
    assert seen[-1][1]["step"] == 40 and seen[-1][1]["loss"] == pytest.approx(curve[-1])
    assert (tmp_path / "model.png").stat().st_size > 1000


def test_another_seed_gives_another_curve(pictures, tmp_path):
    for seed in (0, 1):
        run(pictures, tmp_path / f"{seed}.pt2", TrainingOptions(steps=2, batch=2, size=32, seed=seed))
    assert losses(tmp_path / "0.pt2") != losses(tmp_path / "1.pt2")


def test_workers_and_checkpoints_do_not_change_the_curve(pictures, tmp_path):
    run(pictures, tmp_path / "plain.pt2")
    with pytest.raises(Stop):
        run(pictures, tmp_path / "workers.pt2", stop_after=4)
    run(pictures, tmp_path / "workers.pt2", TrainingOptions(steps=6, batch=2, size=32, save_every=3, workers=1))
    assert losses(tmp_path / "workers.pt2") == losses(tmp_path / "plain.pt2")


def test_a_checkpoint_of_another_run_is_refused(pictures, tmp_path):
    run(pictures, tmp_path / "model.pt2", task="style")
    for options, settings, name in [
        (TrainingOptions(steps=6, batch=2, size=32, lr=0.1), {"task": "style"}, "lr is 0.001, not 0.1"),
        (TINY, {"task": "super-resolution"}, "task is 'style', not 'super-resolution'"),
    ]:
        with pytest.raises(ValueError, match=f"its {name}; remove it to begin anew"):
            run(pictures, tmp_path / "model.pt2", options, **settings)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"batch": 2.0}, "batch: expected a whole number"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
        ({"seed": 1 << 20}, "seed: expected less than"),
        ({"lr": 0.0}, "lr: expected"),
        ({"precision": "fp8"}, "precision: expected"),
    ],
)
def test_options_out_of_range(change, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        TrainingOptions(**change)


def test_what_is_refused_before_training(pictures, tmp_path):
    with pytest.raises(ValueError, match=r"out: expected a name that ends with \.pt2"):
        run(pictures, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="in a folder that is there"):
        run(pictures, tmp_path / "missing" / "model.pt2")
    with pytest.raises(ValueError, match="fp32 or bf16 without a GPU"):
        run(pictures, tmp_path / "model.pt2", TrainingOptions(size=32, precision="fp16"))


def test_a_loss_that_is_no_number_ends_the_run(pictures, tmp_path):
    with pytest.raises(ValueError, match="no number any more at step 10: try a smaller learning rate"):
        run(pictures, tmp_path / "model.pt2", TrainingOptions(steps=20, batch=2, size=32, lr=1e30))


def test_two_processes_make_the_gradient_of_one(pictures, tmp_path):
    """The weights after steps with torchrun and gloo, batch of 4 as 2 + 2, beside those of one process."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from test_training import Tiny, run\n"
        "from perceptual_ops.recipes import TrainingOptions\n"
        "Tiny.forward = lambda self, images: images + self.convolution(images)\n"  # dropout differs by process
        "out = Path(sys.argv[1])\n"
        "options = TrainingOptions(steps=3, batch=4, size=32)\n"
        "torch.save(run(sorted(Path(sys.argv[2]).iterdir()), out, options), out.with_suffix('.pt'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, str(program), str(tmp_path / f"{name}.pt2"), str(pictures[0].parent)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-7)
    assert losses(tmp_path / "two.pt2") == pytest.approx(losses(tmp_path / "one.pt2"), rel=1e-5)


@pytest.mark.parametrize("module", [None, "test_training:Tiny"])
def test_style_model(pictures, tmp_path, module):
    style = torch.rand(1, 3, 40, 36, generator=torch.Generator().manual_seed(1))
    options = TrainingOptions(steps=3, batch=2, size=32)
    layers = {"content_layers": ["relu2_2"], "style_layers": ["relu1_1", "relu2_2"]}
    out = tmp_path / "model.pt2"
    train_style(style, pictures, out, weights="random", module=module, options=options, **layers)
    rows = read_log(out.with_suffix(".csv"))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["loss"] == pytest.approx(rows[0]["content"] + rows[0]["style"] + rows[0]["tv"], rel=1e-5)
    assert not out.with_suffix(".checkpoint").exists()
    model = load_model(out)
    assert (model.kind, model.scale) == ("style", 1)
    for shape in [(1, 3, 61, 43), (3, 3, 32, 90)]:
        images = torch.rand(shape)
        result = model(images)
        assert result.shape == shape and result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("loss", ["pixel", "feature", "combined"])
def test_super_resolution_model(pictures, tmp_path, loss):
    out = tmp_path / "model.pt2"
    options = TrainingOptions(steps=3, batch=2, size=32)
    train_super_resolution(pictures, out, scale=2, loss=loss, weights="random", options=options)
    rows = read_log(out.with_suffix(".csv"))
    parts = {"pixel": ["pixel"], "feature": ["feature"], "combined": ["pixel", "feature"]}[loss]
    assert set(rows[0]) == {"step", "seconds", "loss", *parts}
    # Training starts at the bicubic enlargement, whose loss is 1 by definition; the batch is not the examples.
    assert all(0.3 < rows[0][part] < 3 for part in parts)
    model = load_model(out)
    assert (model.kind, model.scale) == ("super-resolution", 2)
    assert model(torch.rand(2, 3, 17, 30)).shape == (2, 3, 34, 60)


def test_networks_that_do_not_fit(pictures, tmp_path):
    options = TrainingOptions(steps=1, batch=2, size=32)
    common = {"weights": "random", "options": options, "loss": "pixel"}
    for module, error, sentence in [
        ("test_training:Tiny", ValueError, r"expected images \(1, 3, 32, 32\) from images \(1, 3, 16, 16\)"),
        ("test_training", ValueError, "expected package.module:name"),
        ("test_training:Missing", ValueError, "which has no 'Missing'"),
        ("nowhere:Tiny", ModuleNotFoundError, "is its folder on PYTHONPATH"),
        ("test_training:run", ValueError, "without arguments"),
        ("test_training:dict", ValueError, "test_training, which has no 'dict'"),
    ]:
        with pytest.raises(error, match=sentence):
            train_super_resolution(pictures, tmp_path / "model.pt2", scale=2, module=module, **common)
    with pytest.raises(ValueError, match="size: expected a multiple of the scale 8, got 36"):
        train_super_resolution(pictures, tmp_path / "m.pt2", scale=8, options=TrainingOptions(size=36))
    with pytest.raises(ValueError, match="scale: expected 2, 4, 8, got 3"):
        train_super_resolution(pictures, tmp_path / "m.pt2", scale=3, options=options)
