"""Checkpoints of a training: the same curve after a kill, and what is refused when a run goes on."""

import math
import zipfile

import numpy as np
import pytest
import tiny_training
import torch
from tiny_training import TINY, Stop, Tiny, losses, run, write_pictures

from perceptual_ops.recipes import TrainingOptions, load_model, save_model

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


PRECISIONS = ("fp32", "bf16", "fp16")


def run_precisely(precision, pictures, out, stop_after=None):
    """With a weight that makes fp16 find a scale, which has to be kept."""
    options = TrainingOptions(steps=6, batch=2, size=32, save_every=2, precision=precision)
    return run(pictures, out, options, stop_after, weight=100.0 if precision == "fp16" else 1.0).state_dict()


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory):
    """Weights and losses of runs without interruption, by their precision."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    pictures = write_pictures(folder / "pictures")
    for precision in PRECISIONS:
        state = run_precisely(precision, pictures, folder / f"{precision}.safetensors")
        found[precision] = state, losses(folder / f"{precision}.safetensors")
    return found


@pytest.mark.parametrize("stop_after", [1, 2, 5])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_killed_run_goes_on_with_the_same_bits(pictures, tmp_path, whole_runs, stop_after, precision):
    whole, curve = whole_runs[precision]
    with pytest.raises(Stop):
        run_precisely(precision, pictures, tmp_path / "killed.safetensors", stop_after)
    resumed = run_precisely(precision, pictures, tmp_path / "killed.safetensors")
    assert losses(tmp_path / "killed.safetensors") == curve
    assert len(curve) == 6
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_workers_and_checkpoints_do_not_change_the_curve(pictures, tmp_path):
    run(pictures, tmp_path / "plain.safetensors")
    with pytest.raises(Stop):
        run(pictures, tmp_path / "workers.safetensors", stop_after=4)
    run(pictures, tmp_path / "workers.safetensors", TrainingOptions(steps=6, batch=2, size=32, save_every=3, workers=1))
    assert losses(tmp_path / "workers.safetensors") == losses(tmp_path / "plain.safetensors")


def test_a_checkpoint_of_another_run_is_refused(pictures, tmp_path):
    run(pictures, tmp_path / "model.safetensors", task="style")
    for options, settings, name in [
        (TrainingOptions(steps=6, batch=2, size=32, lr=0.1), {"task": "style"}, "lr is 0.001, not 0.1"),
        (TINY, {"task": "super-resolution"}, "task is 'style', not 'super-resolution'"),
    ]:
        with pytest.raises(ValueError, match=f"its {name}; remove it to begin anew"):
            run(pictures, tmp_path / "model.safetensors", options, **settings)


def test_damaged_checkpoints_and_logs(pictures, tmp_path):
    out = tmp_path / "model.safetensors"
    run(pictures, out)
    out.with_suffix(".log.csv").write_text("step,seconds,loss\n1,0,1\n")
    with pytest.raises(ValueError, match="expected a row for each of the 6 steps of the checkpoint, got 1"):
        run(pictures, out)
    state = torch.load(out.with_suffix(".checkpoint"))
    del state["model"]["convolution.bias"]
    torch.save(state, out.with_suffix(".checkpoint"))
    with pytest.raises(ValueError, match="expected a checkpoint of this network"):
        run(pictures, out)
    state["model"]["convolution.bias"] = torch.full((3,), math.nan)
    torch.save(state, out.with_suffix(".checkpoint"))
    with pytest.raises(ValueError, match=r"^convolution.bias in .*model.checkpoint: expected finite numbers"):
        run(pictures, out)
    whole = out.with_suffix(".checkpoint").read_bytes()
    with zipfile.ZipFile(out.with_suffix(".checkpoint")) as archive:
        weight = archive.read("model/data/0")
    out.with_suffix(".checkpoint").write_bytes(whole.replace(weight, bytes(len(weight))))
    with pytest.raises(
        ValueError, match=r"got a damaged one, whose record .*/data/0 has a wrong CRC; remove it to begin anew"
    ):
        run(pictures, out)
    out.with_suffix(".checkpoint").write_text("PK\x03\x04damaged")
    with pytest.raises(
        ValueError, match=r"expected a state dict, got a file whose reading failed .*; remove it to begin anew"
    ):
        run(pictures, out)
    torch.save({"done": 6}, out.with_suffix(".checkpoint"))
    with pytest.raises(ValueError, match=r"expected a checkpoint of a training, this file holds none; remove it"):
        run(pictures, out)


class Masked(Tiny):
    """With a buffer of infinities, as attention has them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def test_a_mask_of_infinities_is_no_damage(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_training, "Tiny", Masked)
    with pytest.raises(Stop):
        run(pictures, tmp_path / "model.safetensors", stop_after=3)
    model = run(pictures, tmp_path / "model.safetensors")
    save_model(tmp_path / "model.safetensors", model, "style")
    mask = load_model(tmp_path / "model.safetensors", network=Masked()).network.mask
    assert mask.tolist() == [0, -torch.inf]


def test_a_step_size_of_numpy_can_be_resumed(pictures, tmp_path):
    options, weight = TrainingOptions(steps=2, batch=2, size=32, lr=np.float64(1e-3)), np.float64(3.0)
    run(pictures, tmp_path / "model.safetensors", options, style_weight=weight)
    assert run(pictures, tmp_path / "model.safetensors", options, style_weight=weight) is not None
