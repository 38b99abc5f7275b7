"""Checkpoints and logs that are malformed: one sentence that names the file, whatever is in it."""

import re
from dataclasses import replace

import pytest
import tiny_training
import torch
from tiny_training import TINY, Stop, run, write_pictures

from perceptual_ops.recipes.training_log import read_log


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The pictures, and the bytes of checkpoint and log of a run that was stopped after 4 of 6 steps."""
    folder = tmp_path_factory.mktemp("stopped")
    pictures = write_pictures(folder / "pictures")
    with pytest.raises(Stop):
        run(pictures, folder / "model.safetensors", stop_after=4)
    return pictures, (folder / "model.checkpoint").read_bytes(), (folder / "model.log.csv").read_bytes()


def resume(stopped, folder, checkpoint=None, log=None):
    (folder / "model.checkpoint").write_bytes(checkpoint or stopped[1])
    (folder / "model.log.csv").write_bytes(log or stopped[2])
    return run(stopped[0], folder / "model.safetensors")


def refused(stopped, folder, **files):
    with pytest.raises(ValueError) as caught:
        resume(stopped, folder, **files)
    sentence = str(caught.value)
    assert re.match(rf"{folder}/model\.(checkpoint|log\.csv): expected ", sentence), sentence
    return sentence


def edited(edit):
    def change(state):
        edit(state)
        return state

    return change


def moment(edit):
    return edited(lambda state: edit(state["optimizer"]["state"][0]))


CHECKPOINTS = {
    "a list": lambda state: [1, 2],
    "no dict of settings": edited(lambda state: state.update(settings=[1])),
    "no settings": edited(lambda state: state.pop("settings")),
    "done in words": edited(lambda state: state.update(done="x")),
    "done true": edited(lambda state: state.update(done=True)),
    "done before the first": edited(lambda state: state.update(done=0)),
    "done below nothing": edited(lambda state: state.update(done=-3)),
    "done beyond the last": edited(lambda state: state.update(done=7)),
    "done a half": edited(lambda state: state.update(done=2.5)),
    "model in words": edited(lambda state: state.update(model="x")),
    "model without a layer": edited(lambda state: state["model"].pop("convolution.bias")),
    "model of other kinds": edited(lambda state: state["model"].update({"convolution.bias": "x"})),
    "optimizer a number": edited(lambda state: state.update(optimizer=3)),
    "settings of tensors": edited(lambda state: state["settings"].update(lr=torch.zeros(100, 2))),
    "model with a number for a name": edited(lambda state: state["model"].update({3: torch.zeros(1)})),
    "optimizer without states": edited(lambda state: state["optimizer"].pop("state")),
    "optimizer of no parameter": edited(lambda state: state["optimizer"]["state"].clear()),
    "optimizer of a parameter more": edited(lambda state: state["optimizer"]["state"].update({2: {}})),
    "optimizer of a parameter by name": edited(lambda state: state["optimizer"]["state"].update(x={})),
    "optimizer without a moment": moment(lambda moments: moments.pop("exp_avg_sq")),
    "optimizer with a moment more": moment(lambda moments: moments.update(max_exp_avg_sq=moments["exp_avg_sq"])),
    "optimizer before its first step": moment(lambda moments: moments.update(step=torch.tensor(-5.0))),
    "optimizer beyond its last step": moment(lambda moments: moments.update(step=torch.tensor(5.0))),
    "optimizer of no numbers": moment(lambda moments: moments["exp_avg"][0, 0, 0, 0].fill_(torch.nan)),
    "optimizer of infinities": moment(lambda moments: moments["exp_avg_sq"].fill_(torch.inf)),
    "optimizer of negative squares": moment(lambda moments: moments["exp_avg_sq"].neg_()),
    "optimizer of words": edited(lambda state: state["optimizer"]["state"].update({0: "x"})),
    "optimizer of another shape": edited(lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(7))),
    "optimizer with a word": edited(lambda state: state["optimizer"]["state"][0].update(exp_avg="x")),
    "schedule empty": edited(lambda state: state["schedule"].clear()),
    "schedule of words": edited(lambda state: state["schedule"].update(last_epoch="x")),
    "schedule before the first step": edited(lambda state: state["schedule"].update(last_epoch=-1)),
    "schedule beyond the last step": edited(lambda state: state["schedule"].update(last_epoch=5)),
    "scaler where none is": edited(lambda state: state.update(scaler={"scale": "x"})),
    "scaler a list": edited(lambda state: state.update(scaler=[])),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_malformed_checkpoint_is_one_sentence(stopped, tmp_path, name):
    path = tmp_path / "edited"
    path.write_bytes(stopped[1])
    torch.save(CHECKPOINTS[name](torch.load(path)), path)
    assert "remove it to begin anew" in refused(stopped, tmp_path, checkpoint=path.read_bytes())


@pytest.mark.parametrize(
    "edit",
    [
        lambda state: state["optimizer"].pop("param_groups"),
        lambda state: state["optimizer"]["param_groups"][0].update(lr=torch.nan, amsgrad=True, eps=-1.0),
        lambda state: state["optimizer"]["param_groups"][0].update(weight_decay=-1.0, capturable=True, lr="x"),
        lambda state: state["schedule"].update(base_lrs=[], _last_lr=[torch.nan], _step_count="x"),
    ],
)
def test_what_steps_do_not_change_is_not_taken_from_a_checkpoint(stopped, tmp_path, edit):
    """The run ends with the bits of one from an untouched checkpoint."""
    path, (touched, plain) = tmp_path / "edited", (tmp_path / "touched", tmp_path / "plain")
    path.write_bytes(stopped[1])
    torch.save(edited(edit)(torch.load(path)), path)
    touched.mkdir()
    plain.mkdir()
    model, expected = resume(stopped, touched, checkpoint=path.read_bytes()), resume(stopped, plain)
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)


@pytest.mark.parametrize("change", [{"scale": "x"}, {"scale": torch.inf}, {"scale": 0.0}, {"_growth_tracker": -1}])
def test_a_malformed_scale_is_one_sentence(stopped, tmp_path, change):
    out, options = tmp_path / "model.safetensors", replace(TINY, precision="fp16")
    with pytest.raises(Stop):
        run(stopped[0], out, options, stop_after=2)
    state = torch.load(out.with_suffix(".checkpoint"))
    state["scaler"].update(change)
    torch.save(state, out.with_suffix(".checkpoint"))
    with pytest.raises(ValueError, match=r"model\.checkpoint: expected a checkpoint of this network \(scaler: "):
        run(stopped[0], out, options)


@pytest.mark.parametrize(
    ("data", "error", "remedy"),
    [
        (b"x", FileExistsError, "move it or choose another name"),
        (b"\x80\x02.", FileExistsError, "move it or choose another name"),
        (b"PK\x03\x04" + bytes(40), ValueError, "remove it to begin anew"),
    ],
)
def test_other_bytes_are_no_checkpoint(stopped, tmp_path, data, error, remedy):
    with pytest.raises(error, match=rf"model\.checkpoint.*{remedy}"):
        resume(stopped, tmp_path, checkpoint=data)


def test_a_checkpoint_of_an_older_version_says_what_it_lacks(stopped, tmp_path):
    path = tmp_path / "edited"
    path.write_bytes(stopped[1])
    state = torch.load(path)
    del state["settings"]["lr"]
    torch.save(state, path)
    assert "of this version, it lacks the lr;" in refused(stopped, tmp_path, checkpoint=path.read_bytes())


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda log: bytes(range(256)), "expected"),
        (lambda log: log + b"\0", "damaged"),
        (lambda log: log[: log.rindex(b",")], "damaged"),
        (lambda log: log + b"7,1,2,3,4,5\n", "damaged"),
        (lambda log: log.replace(b"step", b"stop"), "expected"),
        (lambda log: log.replace(b"error", b"terror"), "expected the columns step, seconds, loss, error, got"),
        (lambda log: re.sub(rb"(\n2,[^,]*,)[^,]*", rb"\1nan", log), "the finite numbers of step 2 in its row 2"),
        (lambda log: log.replace(b"\n2,", b"\n3,"), "the finite numbers of step 2 in its row 2"),
        (lambda log: log.replace(b"\n2,", b"\nx,"), "damaged"),
        (lambda log: log[: log.index(b"\n3,") + 1], "expected a row for each of the 4 steps"),
        (lambda log: log[: log.index(b"\n") + 1], "expected a row for each of the 4 steps"),
        (lambda log: b"\n", "expected"),
    ],
)
def test_a_malformed_log_is_one_sentence(stopped, tmp_path, edit, sentence):
    with pytest.raises((ValueError, OSError)) as caught:
        resume(stopped, tmp_path, log=edit(stopped[2]))
    assert sentence in str(caught.value) and "model.log.csv" in str(caught.value), caught.value


def test_the_files_as_they_were_go_on(stopped, tmp_path):
    assert isinstance(resume(stopped, tmp_path), tiny_training.Tiny)
    assert len(read_log(tmp_path / "model.log.csv")) == TINY.steps
