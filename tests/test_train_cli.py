"""The commands that train, apply and invert: what they write, what they say, and how they resume."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from perceptual_ops import cli
from perceptual_ops.images import read_image, write_image
from perceptual_ops.recipes import Model, StyleNet, SuperResolutionNet, load_model, save_model
from perceptual_ops.recipes.training_log import read_log

ROOT = Path(__file__).resolve().parent.parent
QUICK = ["--weights", "random", "--batch", "2", "--size", "32", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path):
    """style.png, a folder of pictures (72 x 60, one of them in a folder below), and text.png, which is no picture."""
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name in ("style.png", "data/a.png", "data/b.jpg", "data/more/c.png"):
        blocks = torch.rand(3, 12, 10, generator=generator)
        write_image(tmp_path / name, blocks.repeat_interleave(5, 1).repeat_interleave(7, 2)[..., :60, :70])
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def train_style(folder, *options, style="style.png", out="model.safetensors", steps="3"):
    command = [
        "train-style",
        str(folder / style),
        "--data",
        str(folder / "data"),
        "-o",
        str(folder / out),
        "--steps",
        steps,
    ]
    return cli.main([*command, "--layers", "relu1_1,relu2_2", *QUICK, *options])


def train_sr(folder, *options, out="sr.safetensors", steps="3"):
    command = ["train-sr", "--data", str(folder / "data"), "-o", str(folder / out), "--scale", "2", "--steps", steps]
    return cli.main([*command, *QUICK, *options])


def test_train_and_apply(folder, capsys):
    assert train_style(folder) == 0
    captured = capsys.readouterr()
    assert "loss=" in captured.err and captured.out.strip() == str(folder / "model.safetensors")
    assert sorted(path.name for path in folder.glob("model.*")) == [
        "model.log.csv",
        "model.log.png",
        "model.safetensors",
    ]
    assert (
        cli.main(["apply", str(folder / "model.safetensors"), str(folder / "style.png"), str(folder / "out.png")]) == 0
    )
    assert Image.open(folder / "out.png").size == (70, 60)
    expected = load_model(folder / "model.safetensors")(read_image(folder / "style.png"))
    torch.testing.assert_close(read_image(folder / "out.png"), expected, rtol=0, atol=0.6 / 255)


def test_a_folder_is_applied_in_batches(folder, capsys):
    torch.manual_seed(0)
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    for batch, out in (("1", "one"), ("3", "three")):
        command = [
            "apply",
            str(folder / "model.safetensors"),
            str(folder / "data"),
            str(folder / out),
            "--batch",
            batch,
        ]
        assert cli.main([*command, "--size", "32"]) == 0
        found = sorted(path.relative_to(folder / out).as_posix() for path in (folder / out).rglob("*.png"))
        assert found == ["a.png", "b.png", "more/c.png"]
    assert Image.open(folder / "one/a.png").size == (32, 27)
    for name in ("a.png", "more/c.png"):
        one, three = (read_image(folder / out / name) for out in ("one", "three"))
        torch.testing.assert_close(one, three, rtol=0, atol=1.1 / 255)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["pixel", "combined"])
def test_train_sr_and_upscale(folder, loss):
    assert train_sr(folder, "--loss", loss, "--precision", "bf16") == 0
    assert (
        cli.main(["upscale", str(folder / "sr.safetensors"), str(folder / "style.png"), str(folder / "large.png")]) == 0
    )
    assert Image.open(folder / "large.png").size == (140, 120)


# The command, whose process ends between two checkpoints as by a SIGKILL from outside.
KILLED = """
import os, signal, sys
from perceptual_ops import cli
from perceptual_ops.recipes import Training

update = Training.update

def update_and_die(training, *arguments):
    update(training, *arguments)
    if training.done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

Training.update = update_and_die
cli.main(sys.argv[1:])
"""


def test_a_killed_command_goes_on_with_the_same_curve(folder):
    """SIGKILL in the middle; the same command again; and once without interruption. All in processes alike."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = ["train-sr", "--data", "data", "--scale", "2", "--steps", "6", "--save-every", "2", *QUICK, "-o"]
    as_usual = ["-m", "perceptual_ops"]
    for start, name in ((["-c", KILLED], "killed"), (as_usual, "killed"), (as_usual, "whole")):
        command = [sys.executable, *start, *arguments, f"{name}.safetensors"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == (0 if start == as_usual else -signal.SIGKILL), done.stderr
        assert (folder / "killed.checkpoint").exists() == (start != as_usual)
        assert (folder / "killed.safetensors").exists() == (start == as_usual)
    curves = [[row["loss"] for row in read_log(folder / f"{name}.log.csv")] for name in ("whole", "killed")]
    assert len(curves[0]) == 6
    assert curves[0] == curves[1]


def test_the_packaged_photographs_are_the_default(folder):
    command = ["train-sr", "-o", str(folder / "sr.safetensors"), "--loss", "pixel", "--steps", "1", "--scale", "4"]
    assert cli.main([*command, *QUICK]) == 0
    assert load_model(folder / "sr.safetensors").scale == 4


@pytest.mark.parametrize("kind", ["content", "style"])
def test_invert(folder, kind):
    command = [
        "invert",
        str(folder / "style.png"),
        "--kind",
        kind,
        "--size",
        "32",
        "--weights",
        "random",
        "--device",
        "cpu",
    ]
    assert cli.main([*command, "-o", str(folder / "one.png"), "--layers", "relu2_2", "--steps", "3"]) == 0
    assert Image.open(folder / "one.png").size == (32, 27)
    assert cli.main([*command, "-o", str(folder / "two.png"), "--layers", "relu1_1,relu2_2", "--steps", "3"]) == 0
    assert Image.open(folder / "two.png").width == 1200


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--steps", "0"), "--steps: expected a whole number from 1"),
        (("--style-weight", "0"), "--style-weight: expected"),
        (("--tv-weight", "nan"), "--tv-weight: expected"),
        (("--size", "61"), "pictures: expected one with sides of at least 61 pixels"),
        (("--data", "missing"), "no such folder"),
        (("--layers", "relu9_9"), "relu9_9"),
        (("--content-layers", "relu8_8"), "relu8_8"),
        (("--weights", "nonsense"), "nonsense"),
        (("--network", "nonsense"), "network: expected package.module:name"),
        (("-o", "model.png"), "out: expected a name that ends with .safetensors"),
        (("--size", "16"), "size: expected at least 17 pixels"),
        (("--lr", "-1"), "lr: expected"),
        (("--batch", "2147483647"), "batch: expected crops that fit into the"),
    ],
)
def test_what_train_style_refuses(folder, capsys, options, sentence):
    assert train_style(folder, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and sentence in error[0], error
    assert not list(folder.glob("model.*"))


def test_what_cannot_be_used_does_not_keep_others_from_being_done(folder, capsys, monkeypatch):
    """A damaged picture, a text, one too large for the model, one too large for the memory; in batches too."""
    torch.manual_seed(0)
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    data = folder / "data"
    (data / "aa.png").write_bytes((data / "a.png").read_bytes()[:-40])
    (data / "zz.png").write_text("no picture")
    write_image(data / "long.png", torch.rand(3, 1, 8193))
    write_image(data / "wide.png", torch.rand(3, 60, 71))
    called = Model.__call__

    def with_little_memory(model, images):
        return torch.empty(1 << 50) if images.shape[3] == 71 or len(images) > 1 else called(model, images)

    monkeypatch.setattr(Model, "__call__", with_little_memory)
    command = ["apply", str(folder / "model.safetensors"), str(data), str(folder / "out"), "--batch", "2"]
    assert cli.main(command) == 1
    assert sorted(path.name for path in (folder / "out").rglob("*.png")) == ["a.png", "b.png", "c.png"]
    captured = capsys.readouterr()
    assert captured.out == f"{folder / 'out'}\n"
    told = [line for line in captured.err.splitlines() if line.startswith("perceptual-ops: ")]
    for name, sentence in (
        ("aa", "damaged"),
        ("zz", "in none of them"),
        (
            "long",
            "long.png: expected images with sides of 1 to 8192 pixels, got 8193 x 1; choose a smaller size (--size)",
        ),
        ("wide", "too little memory"),
    ):
        assert sum(f"{name}.png" in line and sentence in line for line in told) == 1, told
    assert len(told) == 5 and told[-1] == "perceptual-ops: 3 of 7 pictures were written, 4 left out"


def test_what_is_no_file_or_has_no_name_of_its_own_is_left_out(folder, capsys):
    """A link to what is not there, a named pipe, and a picture that another of its folder differs from in suffix."""
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    data = folder / "data"
    (data / "dead.png").symlink_to("unmounted/x.png")
    os.mkfifo(data / "pipe.png")
    (data / "b.png").write_bytes((data / "a.png").read_bytes())
    (data / "folder.png").mkdir()
    command = ["apply", str(folder / "model.safetensors"), str(data), str(folder / "out")]
    assert cli.main(command) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceptual-ops: ")]
    assert f"{data / 'b.png'}: expected one picture of a name whatever its suffix, b.jpg comes first" in told[0]
    assert f"{data / 'dead.png'}: expected a picture, this is a link to one that is not there" in told[1]
    assert f"{data / 'pipe.png'}: expected a picture, this is no regular file" in told[2]
    assert told[3:] == ["perceptual-ops: 3 of 6 pictures were written, 3 left out"]
    for name in ("b.png", "dead.png", "pipe.png"):
        assert cli.main([*command, "--strict"]) == 2
        assert f"{name}: expected" in capsys.readouterr().err.splitlines()[-1]
        (data / name).unlink()
    assert cli.main([*command, "--strict"]) == 0


def test_a_picture_that_is_left_out_is_not_written_over(folder, capsys):
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    (folder / "two").mkdir()
    for name in ("a.jpg", "a.png"):
        write_image(folder / "two" / name, torch.rand(3, 60, 70))
    assert cli.main(["apply", str(folder / "model.safetensors"), *2 * [str(folder / "two")]]) == 2
    assert "two/a.png: expected a place where no input is" in capsys.readouterr().err.splitlines()[-1]


def test_training_leaves_out_what_is_no_file(folder, capsys):
    (folder / "data" / "dead.png").symlink_to("unmounted/x.png")
    os.mkfifo(folder / "data" / "pipe.png")
    assert train_sr(folder, "--loss", "pixel", steps="1") == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceptual-ops: ")]
    assert "dead.png: expected a picture, this is a link" in told[0] and "pipe.png: expected" in told[1]
    assert told[2:] == ["perceptual-ops: 2 pictures could not be read and were left out"]
    assert train_sr(folder, "--loss", "pixel", "--strict", out="strict.safetensors", steps="1") == 2
    assert "dead.png" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("bias", [3e38, -3e38])
def test_a_result_of_no_numbers_is_no_picture(folder, capsys, bias):
    """Weights that are finite, and too large: for all pictures, or for some."""
    network = StyleNet(4, 1)
    network.last.weight.data.fill_(bias)
    network.last.bias.data.fill_(bias)
    save_model(folder / "model.safetensors", network, "style")
    with pytest.raises(ValueError, match=r"expected numbers from .*model\.safetensors, got NaN or infinity"):
        load_model(folder / "model.safetensors")(read_image(folder / "style.png"))
    command = ["apply", str(folder / "model.safetensors")]
    assert cli.main([*command, str(folder / "style.png"), str(folder / "out.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "style.png: expected numbers from " in line and "model.safetensors" in line
    assert cli.main([*command, str(folder / "data"), str(folder / "out"), "--batch", "2"]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceptual-ops: ")]
    assert sum("expected numbers from" in line for line in told) == 3 and "none of the 3 can" in told[-1]
    assert not list(folder.glob("out*"))


def test_one_result_of_no_numbers_is_left_out(folder, capsys, monkeypatch):
    """In a batch with good ones, too."""
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    write_image(folder / "data" / "bad.png", torch.zeros(3, 60, 70))
    painted = StyleNet.forward
    monkeypatch.setattr(StyleNet, "forward", lambda net, x: painted(net, x) / x.amax((1, 2, 3), keepdim=True))
    command = ["apply", str(folder / "model.safetensors"), str(folder / "data"), str(folder / "out"), "--batch", "4"]
    assert cli.main(command) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceptual-ops: ")]
    assert "bad.png: expected numbers from " in told[0]
    assert told[1:] == ["perceptual-ops: 3 of 4 pictures were written, 1 left out"]
    assert sorted(path.name for path in (folder / "out").rglob("*.png")) == ["a.png", "b.png", "c.png"]


def test_strict_stops_at_the_first(folder, capsys):
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    (folder / "data" / "aa.png").write_text("no picture")
    command = ["apply", str(folder / "model.safetensors"), str(folder / "data"), str(folder / "out")]
    assert cli.main([*command, "--strict"]) == 2
    assert [path.name for path in (folder / "out").rglob("*.png")] == ["a.png"]
    assert "aa.png" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_without_one_picture_that_can_be_used(folder, capsys):
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    for path in (folder / "data").rglob("*.*"):
        path.write_text("no picture")
    assert cli.main(["apply", str(folder / "model.safetensors"), str(folder / "data"), str(folder / "out")]) == 2
    assert "expected a picture that can be used, none of the 3 can" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("train", [train_style, train_sr])
def test_training_leaves_out_what_cannot_be_read(folder, capsys, train):
    (folder / "data" / "aa.png").write_bytes((folder / "data" / "a.png").read_bytes()[:-40])
    (folder / "data" / "zz.png").write_text("no picture")
    out = "out.safetensors"
    assert train(folder, "--strict", out=out) == 2
    assert "zz.png: expected a picture in PNG" in capsys.readouterr().err.splitlines()[-1]
    assert train(folder, "--workers", "2", out=out) == 1
    captured = capsys.readouterr()
    told = [line for line in captured.err.splitlines() if line.startswith("perceptual-ops: ")]
    assert captured.out == f"{folder / out}\n" and (folder / out).exists()
    assert sum("aa.png: expected a picture, this one is damaged" in line for line in told) == 1
    assert sum("zz.png: expected a picture in PNG" in line for line in told) == 1
    assert len(told) == 3 and told[-1] == "perceptual-ops: 2 pictures could not be read and were left out"
    (folder / "data" / "zz.png").unlink()
    assert train(folder, "--strict", out="strict.safetensors") == 2
    assert "aa.png: expected a picture" in capsys.readouterr().err.splitlines()[-1]


def test_too_little_memory(folder, capsys, monkeypatch):
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    monkeypatch.setattr(Model, "__call__", lambda model, images: torch.empty(1 << 50))
    assert (
        cli.main(["apply", str(folder / "model.safetensors"), str(folder / "style.png"), str(folder / "out.png")]) == 2
    )
    assert "too little memory" in capsys.readouterr().err


def test_two_processes_train_by_the_command(folder):
    """As README says: one of them speaks, and the model can be used. A damaged picture is said once."""
    (folder / "data" / "aa.png").write_bytes((folder / "data" / "a.png").read_bytes()[:-40])
    (folder / "data" / "zz.png").write_text("no picture")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    apart = ["--log-dir", "logs", "--redirects", "3"]  # a file for what each process says
    command = ["-m", "perceptual_ops", "train-sr", "--data", "data", "--scale", "2", "--steps", "2", *QUICK, "-o"]
    done = subprocess.run(
        [*launcher, *apart, *command, "sr.safetensors"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = [
        [next((folder / "logs").glob(f"*/*/{rank}/{stream}.log")).read_text() for stream in ("stdout", "stderr")]
        for rank in (0, 1)
    ]
    assert said[0][0].split() == ["sr.safetensors"] and "2/2" in said[0][1]
    assert said[1][0] == "" and "/2" not in said[1][1]
    assert load_model(folder / "sr.safetensors").scale == 2
    for sentence in ("aa.png: expected a picture", "zz.png: expected a picture", "2 pictures could not be read"):
        assert [stderr.count(sentence) for _, stderr in said] == [1, 0], said


def test_a_batch_that_two_processes_cannot_share(folder, capsys, monkeypatch):
    monkeypatch.setattr("perceptual_ops.recipes.training.joined", lambda device: (device, 0, 2, False))
    assert train_sr(folder, "--loss", "pixel", "--batch", "3") == 2
    assert "batch: expected a multiple of the 2 processes, got 3" in capsys.readouterr().err


def test_what_apply_refuses(folder, capsys):
    torch.manual_seed(0)
    save_model(folder / "style.safetensors", StyleNet(4, 1), "style")
    save_model(folder / "sr.safetensors", SuperResolutionNet(2), "super-resolution", scale=2)
    program = torch.export.export(torch.nn.Conv2d(3, 3, 1), (torch.rand(1, 3, 8, 8),))
    torch.export.save(program, folder / "other.pt2")
    for command, sentence in [
        (
            ["apply", "missing.safetensors", "style.png", "out.png"],
            "missing.safetensors: expected a model, there is no such file",
        ),
        (["apply", "text.png", "style.png", "out.png"], "text.png: expected a model of train-style or train-sr"),
        (["apply", "other.pt2", "style.png", "out.png"], "other.pt2: expected a model of train-style or train-sr"),
        (["apply", "sr.safetensors", "style.png", "out.png"], "this is for super-resolution; upscale runs it"),
        (["upscale", "style.safetensors", "style.png", "out.png"], "this is for style; apply runs it"),
        (["apply", "style.safetensors", "missing.png", "out.png"], "no such file"),
        (["apply", "style.safetensors", "text.png", "out.png"], "this file is in none of them"),
        (["apply", "style.safetensors", "style.png", "out.txt"], "expected a name that ends with"),
        (["apply", "style.safetensors", "data", "text.png"], "expected a folder for the results of a folder"),
        (["apply", "style.safetensors", "style.png", "style.png"], "expected a place where no input is"),
        (["apply", "style.safetensors", "data", "data"], "expected a place where no input is"),
        (["apply", "style.safetensors", "style.png", "out.png", "--batch", "0"], "--batch: expected"),
    ]:
        words = [command[0], *(str(folder / word) if word not in ("--batch", "0") else word for word in command[1:])]
        assert cli.main(words) == 2, command
        error = capsys.readouterr().err.strip().splitlines()
        assert sentence in error[-1], error
        assert not (folder / "out.png").exists()


def test_a_file_that_is_no_model_is_one_sentence(folder):
    """torch.export would print a traceback first, through loggers that pytest does not see."""
    (folder / "text.png").rename(folder / "text.safetensors")
    command = [sys.executable, "-m", "perceptual_ops", "apply", "text.safetensors", "style.png", "out.png"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
