"""What training loops share: curves, logs, ways to train, and what is refused."""

import os
import sys

import pytest
import tiny_training
import torch
from tiny_training import TINY, Stop, Tiny, losses, run, seeded, write_pictures
from torch.optim.optimizer import register_optimizer_step_pre_hook

from perceptual_ops.picture_folder import pictures_in
from perceptual_ops.recipes import (
    StyleNet,
    Training,
    TrainingOptions,
    load_model,
    save_model,
    train_super_resolution,
)
from perceptual_ops.recipes.crops import RandomCrops

without_plots = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


def test_the_loss_falls_and_steps_are_reported(pictures, tmp_path):
    seen = []
    options = TrainingOptions(steps=40, batch=2, size=32, lr=0.01, save_every=20)
    run(
        pictures,
        tmp_path / "model.safetensors",
        options,
        on_step=lambda done, numbers: seen.append((done, dict(numbers))),
    )
    curve = losses(tmp_path / "model.safetensors")
    assert sum(curve[-5:]) < 0.3 * sum(curve[:5])
    assert [done for done, _ in seen] == list(range(1, 41))
    assert seen[-1][1]["step"] == 40 and seen[-1][1]["loss"] == pytest.approx(curve[-1])
    assert (tmp_path / "model.log.png").stat().st_size > 1000


@without_plots
def test_the_step_size_rises_and_falls_along_a_cosine(pictures, tmp_path):
    options = TrainingOptions(steps=40, lr=0.5)
    factors = [options.lr_factor(done) for done in range(41)]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0], rel=0.02)
    assert factors[20] == pytest.approx(0.5) and factors[40] == 0
    assert factors[3:] == sorted(factors[3:], reverse=True)
    assert TrainingOptions(steps=1).lr_factor(0) == 1
    options, used = TrainingOptions(steps=12, batch=2, size=32, lr=0.5), []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    run(pictures, tmp_path / "model.safetensors", options)
    hook.remove()
    assert used == pytest.approx([0.5 * options.lr_factor(done) for done in range(12)])


@without_plots
def test_another_seed_gives_another_curve(pictures, tmp_path):
    for seed in (0, 1):
        run(pictures, tmp_path / f"{seed}.safetensors", TrainingOptions(steps=2, batch=2, size=32, seed=seed))
    assert losses(tmp_path / "0.safetensors") != losses(tmp_path / "1.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"batch": 2.0}, "batch: expected a whole number"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
        ({"lr": 0.0}, "lr: expected"),
        ({"precision": "fp8"}, "precision: expected"),
    ],
)
def test_options_out_of_range(change, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        TrainingOptions(**change)


def test_what_is_refused_before_training(pictures, tmp_path):
    with pytest.raises(ValueError, match=r"out: expected a name that ends with \.safetensors"):
        run(pictures, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="in a folder that is there"):
        run(pictures, tmp_path / "missing" / "model.safetensors")


@pytest.mark.parametrize(("steps", "save_every"), [(20, 100), (5, 100), (20, 3)])
def test_a_loss_that_is_no_number_ends_the_run(pictures, tmp_path, steps, save_every):
    """Before it reaches a checkpoint or the end."""
    options = TrainingOptions(steps=steps, batch=2, size=32, lr=1e30, save_every=save_every)
    with pytest.raises(ValueError, match=r"no number any more at step \d+: try a smaller learning rate"):
        run(pictures, tmp_path / "model.safetensors", options)
    assert not list(tmp_path.glob("model.*"))


def test_a_finished_model_is_not_trained_anew(pictures, tmp_path):
    save_model(tmp_path / "model.safetensors", StyleNet(1, 0), "style")
    with pytest.raises(FileExistsError, match=r"expected a name that is free, this model is there; remove it"):
        run(pictures, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_text("no model")
    with pytest.raises(FileExistsError, match=r"this file is no model of a training; move it"):
        run(pictures, tmp_path / "model.safetensors")


def test_an_update_for_each_batch(pictures, tmp_path):
    crops = RandomCrops(pictures, 32)
    with (
        pytest.raises(RuntimeError, match="one update for each batch"),
        Training(Tiny, crops, tmp_path / "model.safetensors", TINY, torch.device("cpu"), {}) as training,
    ):
        for _ in training.batches():
            pass
    with pytest.raises(RuntimeError, match="finish: expected 6 steps, 0 are done"):
        Training(Tiny, crops, tmp_path / "model.safetensors", TINY, torch.device("cpu"), {}).finish(lambda model: None)


class Watched(Tiny):
    """Notes how it is called."""

    def __init__(self):
        super().__init__()
        self.found = []

    def forward(self, images):
        nhwc = all(x.is_contiguous(memory_format=torch.channels_last) for x in (images, self.convolution.weight))
        self.found.append((torch.compiler.is_compiling(), nhwc, torch.is_autocast_enabled("cpu")))
        return super().forward(images)


@without_plots
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_layout_and_precision_reach_the_network(pictures, tmp_path, monkeypatch, precision, channels_last):
    monkeypatch.setattr(tiny_training, "Tiny", Watched)
    options = TrainingOptions(steps=1, batch=2, size=32, precision=precision, channels_last=channels_last)
    model = run(pictures, tmp_path / "model.safetensors", options)
    assert model.found == [(False, channels_last, precision == "bf16")]


@without_plots
def test_a_compiled_network_trains_and_can_be_written(pictures, tmp_path, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_module(module, backend=backend))
    options = TrainingOptions(steps=2, batch=2, size=32, compile=True)
    model = run(pictures, tmp_path / "model.safetensors", options)
    assert len(graphs) == 1
    save_model(tmp_path / "model.safetensors", model, "style")
    assert load_model(tmp_path / "model.safetensors", network=Tiny())(torch.rand(1, 3, 20, 30)).shape == (1, 3, 20, 30)


@without_plots
def test_other_ways_to_train(pictures, tmp_path):
    """Inductor's dropout draws otherwise, a layout sums in another order."""
    run(pictures, tmp_path / "plain.safetensors")
    for name, change in (("compiled", {"compile": True}), ("nchw", {"channels_last": False})):
        run(
            pictures,
            tmp_path / f"{name}.safetensors",
            TrainingOptions(steps=6, batch=2, size=32, save_every=2, **change),
        )
        assert losses(tmp_path / f"{name}.safetensors") == pytest.approx(
            losses(tmp_path / "plain.safetensors"), rel=0.1
        )


@without_plots
def test_a_step_that_fp16_cannot_hold_is_left_out(pictures, tmp_path):
    """The gradient overflows at the scale that GradScaler begins with: neither weights nor step size move."""
    out = tmp_path / "model.safetensors"
    options = TrainingOptions(steps=4, batch=2, size=32, precision="fp16", save_every=1)
    before = {name: value.clone() for name, value in seeded(options).state_dict().items()}
    with pytest.raises(Stop):
        run(pictures, out, options, stop_after=1, weight=1e4)
    state = torch.load(out.with_suffix(".checkpoint"))
    assert state["done"] == 1 and state["scaler"]["scale"] < 65536
    assert state["schedule"]["last_epoch"] == 0
    assert all(torch.equal(state["model"][name], value) for name, value in before.items())


@without_plots
def test_readers_are_processes_of_their_own(pictures, tmp_path, monkeypatch):
    read = RandomCrops.__getitem__
    found = tmp_path / "readers"
    found.mkdir()

    def noted(crops, index):
        (found / str(os.getpid())).touch()
        return read(crops, index)

    monkeypatch.setattr(RandomCrops, "__getitem__", noted)
    run(pictures, tmp_path / "model.safetensors", TrainingOptions(steps=2, batch=2, size=32, workers=1))
    readers = [path.name for path in found.iterdir()]
    assert readers and str(os.getpid()) not in readers


def test_plots_are_no_pictures(pictures):
    """A run whose model lies among the pictures leaves its plot there, like others before it, and goes on."""
    out = pictures[0].parent / "model.safetensors"
    options = TrainingOptions(steps=2, batch=2, size=32, save_every=1)

    def stop(done, numbers):
        if done == 2:  # after the checkpoint of the first
            raise Stop

    common = {"scale": 2, "loss": "pixel", "options": options}
    train_super_resolution(pictures, out.with_name("before.safetensors"), **common)
    with pytest.raises(Stop):
        train_super_resolution(pictures, out, on_step=stop, **common)
    assert out.with_suffix(".log.png") in pictures_in(out.parent)
    train_super_resolution(pictures_in(out.parent), out, **common)
    assert len(losses(out)) == 2


def test_a_plot_that_cannot_be_drawn_stops_nothing(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(RuntimeWarning, match="no plot of the log: .*matplotlib"):
        run(pictures, tmp_path / "model.safetensors")
    assert (tmp_path / "model.checkpoint").exists() and len(losses(tmp_path / "model.safetensors")) == 6


@without_plots
def test_an_error_in_a_loop_keeps_its_variables(pictures, tmp_path):
    def stop(done, numbers):
        seen = done
        raise Stop(seen)

    with pytest.raises(Stop) as caught:
        run(pictures, tmp_path / "model.safetensors", on_step=stop)
    assert caught.traceback[-1].frame.f_locals["seen"] == 1
