"""What a training writes: never over an input, nor over what is not its own; and what it says without room."""

import json
import resource

import pytest
import torch
from tiny_training import TINY, Stop, run, write_pictures

from perceptual_ops import cli
from perceptual_ops.images import write_image
from perceptual_ops.recipes import Training, load_model
from perceptual_ops.recipes.exported import FACTS
from perceptual_ops.recipes.training_files import TrainingFiles


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


def quick(pictures, out):
    """Options for as little work as can be."""
    options = ["--steps", "1", "--batch", "1", "--size", "32", "--weights", "random", "--device", "cpu"]
    return ["--data", str(pictures[0].parent), "-o", str(out), *options]


def train(pictures, out, *options):
    return cli.main(["train-sr", "--scale", "2", "--loss", "pixel", *quick(pictures, out), *options])


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["model.log.csv", "model.log.png", "model.safetensors", "program.pt2"])
@pytest.mark.parametrize("content", ["picture", "text"])
def test_files_of_others_are_left_alone(pictures, tmp_path, capsys, name, content):
    if content == "picture":
        write_image(tmp_path / "other.png", torch.zeros(3, 8, 8))
        (tmp_path / "other.png").rename(tmp_path / name)
    else:
        (tmp_path / name).write_text("step;loss\n1;2\n")
    before = everything(tmp_path)
    assert train(pictures, tmp_path / "model.safetensors", "--export", str(tmp_path / "program.pt2")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name}: expected " in line
    assert everything(tmp_path) == before


def test_files_of_its_own_are_replaced(pictures, tmp_path):
    out, program = tmp_path / "model.safetensors", tmp_path / "program.pt2"
    for seed in ("0", "1"):
        assert train(pictures, out, "--export", str(program), "--seed", seed) == 0
        out.unlink()
        program.unlink()
    assert (tmp_path / "model.log.png").exists()


def test_models_that_would_share_a_log(pictures, tmp_path, capsys):
    assert train(pictures, tmp_path / "model.safetensors") == 0
    before = everything(tmp_path)
    assert train(pictures, tmp_path / "model.pt2") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "model.pt2: expected a log and a checkpoint of its own" in line and "model.safetensors" in line
    assert everything(tmp_path) == before


def test_the_program_of_another_training_is_left_alone(pictures, tmp_path, capsys):
    program = tmp_path / "program.pt2"
    assert train(pictures, tmp_path / "one.safetensors", "--export", str(program)) == 0
    before = everything(tmp_path)
    assert train(pictures, tmp_path / "two.safetensors", "--export", str(program)) == 2
    assert "program.pt2: expected a name that is free" in capsys.readouterr().err.splitlines()[-1]
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "text", ["step,seconds,note\nfirst,1,walked\n", "step,seconds,pace\n1,2,3\n7,8,9\n", "step,seconds,x\n1,2\n"]
)
def test_a_table_that_begins_as_a_log_is_left_alone(tmp_path, text):
    (tmp_path / "model.log.csv").write_text(text)
    with pytest.raises(FileExistsError, match=r"model\.log\.csv: expected nothing or the log of a training"):
        TrainingFiles(tmp_path / "model.safetensors").check()


def test_a_checkpoint_of_others_is_left_alone(tmp_path):
    (tmp_path / "model.checkpoint").write_text("of a game")
    with pytest.raises(FileExistsError, match=r"model\.checkpoint: .* this file is none; move it or choose another"):
        TrainingFiles(tmp_path / "model.safetensors").check()


def test_each_fault_of_a_name_has_its_sentence(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    for name, sentence in [
        ("model.pth", r"expected a name that ends with \.safetensors, got "),
        ("no/model.safetensors", r"expected a place in a folder that is there, .*no is none; create it"),
        ("folder.safetensors", r"expected the name of a file, .* is a folder"),
    ]:
        with pytest.raises(ValueError, match=f"out: {sentence}"):
            TrainingFiles(tmp_path / name).check()


@pytest.mark.parametrize("name", ["model.safetensors", "model.log.csv", "model.log.png", "model.checkpoint"])
def test_inputs_are_not_written_over(pictures, tmp_path, capsys, name):
    (tmp_path / name).symlink_to(pictures[1])
    before = everything(tmp_path)
    assert train(pictures, tmp_path / "model.safetensors") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name}: expected a place where no input is" in line
    assert everything(tmp_path) == before


def test_style_and_weights_are_not_written_over(pictures, tmp_path, capsys):
    style, weights = tmp_path / "model.log.png", tmp_path / "weights.safetensors"
    write_image(style, torch.rand(3, 40, 40))
    weights.write_bytes(b"weights")
    before = everything(tmp_path)
    command = ["train-style", str(style), "--data", str(pictures[0].parent), "-o", str(tmp_path / "model.safetensors")]
    assert cli.main([*command, "--device", "cpu"]) == 2
    assert "model.log.png: expected a place where no input is" in capsys.readouterr().err.splitlines()[-1]
    assert train(pictures, weights, "--weights", str(weights)) == 2
    assert "weights.safetensors: expected a place where no input is" in capsys.readouterr().err.splitlines()[-1]
    assert everything(tmp_path) == before


def test_names_of_a_program(pictures, tmp_path, capsys):
    out = tmp_path / "model.pt2"
    for program, sentence in [
        (out, "model.pt2: expected a place of its own"),
        (tmp_path / "program.onnx", "export: expected a name that ends with .pt2"),
        (
            tmp_path / "missing" / "program.pt2",
            "export: expected a place in a folder that is there",
        ),
    ]:
        assert train(pictures, out, "--export", str(program)) == 2
        assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("model.*"))


def test_a_program_is_written_besides(pictures, tmp_path, capsys):
    out, program = tmp_path / "model.pt2", tmp_path / "program.pt2"
    assert train(pictures, out, "--export", str(program)) == 0
    lines = capsys.readouterr().err.splitlines()
    (told,) = [line for line in lines if "is a safetensors file" in line]
    assert "model.pt2" in told and "--export PROGRAM.pt2" in told
    facts = {FACTS: ""}
    images = torch.rand(1, 3, 20, 30)
    result = torch.export.load(program, extra_files=facts).module()(images)
    torch.testing.assert_close(result.clamp(0, 1), load_model(out)(images))
    assert json.loads(facts[FACTS]) == {"kind": "super-resolution", "scale": 2, "multiple": 1}


NETWORK = """
import torch

class Careless(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 1)

    def forward(self, images):
        return super().forward(images) if float(images.sum()) > 0 else images

class Complex(Careless):
    def __init__(self):
        super().__init__()
        self.register_buffer("phase", torch.zeros(3, dtype=torch.complex128))

class Forgetful(Careless):
    def get_extra_state(self):
        return {"a": 1}
"""


def test_a_network_of_ones_own_by_the_commands(pictures, tmp_path, capsys, monkeypatch):
    (tmp_path / "careless.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    own, out, style = ("--network", "careless:Careless"), tmp_path / "model.safetensors", str(pictures[0])
    common = ("--layers", "relu1_1", "--content-layers", "relu1_1")
    for options, sentence in [
        ((*own, "--export", str(tmp_path / "program.pt2")), "expected one that torch.export takes"),
        (("--network", "careless:Forgetful"), "expected a state of dense tensors alone"),
        (("--network", "careless:Complex"), "expected weights that safetensors can hold"),
    ]:  # before training
        assert cli.main(["train-style", style, *quick(pictures, out), *common, *options]) == 2
        assert sentence in capsys.readouterr().err.splitlines()[-1]
        assert not list(tmp_path.glob("model.*"))
    assert cli.main(["train-style", style, *quick(pictures, out), *common, *own]) == 0
    capsys.readouterr()
    apply = ["apply", str(out), style, str(tmp_path / "out.png"), "--device", "cpu"]
    assert cli.main(apply) == 2
    assert "so pass network='careless:Careless', or --network careless:Careless" in capsys.readouterr().err
    assert cli.main([*apply, *own]) == 0
    assert (tmp_path / "out.png").exists()


def test_no_room_for_a_checkpoint_keeps_the_one_before(pictures, tmp_path):
    """A limit on the size of a file plays the full disk. It is lifted, and the same call goes on."""
    out, before = tmp_path / "model.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint = tmp_path / "model.checkpoint"

    def fill(done, numbers):
        if done == 3:  # after the checkpoint of the second step
            resource.setrlimit(resource.RLIMIT_FSIZE, (checkpoint.stat().st_size // 2, before[1]))

    try:
        with pytest.raises(OSError, match=r"model\.checkpoint: expected room for [\d,]+ bytes, the system's limit is"):
            run(pictures, out, on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.load(checkpoint)["done"] == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    steps = []
    run(pictures, out, on_step=lambda done, numbers: steps.append(done))
    assert steps == [3, 4, 5, 6]


def test_no_room_for_the_model_keeps_the_checkpoint(pictures, tmp_path, capsys, monkeypatch):
    out, before, finish = tmp_path / "model.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE), Training.finish

    def fill_and_finish(training, save):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            finish(training, save)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(Training, "finish", fill_and_finish)
    assert train(pictures, out) == 2
    assert "model.safetensors: expected room for" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "model.checkpoint").exists() and not out.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    monkeypatch.undo()
    assert train(pictures, out) == 0
    assert out.exists() and not (tmp_path / "model.checkpoint").exists()


def test_what_a_killed_training_left_is_removed(tmp_path):
    left = tmp_path / ".perceptual-ops-1-0123456789abcdef.tmp"
    left.write_bytes(b"half a checkpoint")
    TrainingFiles(tmp_path / "model.safetensors").check()
    assert not left.exists()


def test_a_run_that_goes_on_replaces_its_own_files(pictures, tmp_path):
    out = tmp_path / "model.safetensors"
    with pytest.raises(Stop):
        run(pictures, out, TINY, stop_after=3)
    assert (tmp_path / "model.log.csv").exists() and (tmp_path / "model.log.png").exists()
    run(pictures, out, TINY)
