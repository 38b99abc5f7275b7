"""The commands that train, apply and invert: what they write, what they say, and how they resume."""

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from train_commands import QUICK, ROOT, train_sr, train_style, write_folder

from perceptual_ops import cli
from perceptual_ops.images import read_image
from perceptual_ops.recipes import StyleNet, SuperResolutionNet, load_model, save_model


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def test_train_and_apply(folder, capsys):
    assert train_style(folder, "--progress") == 0
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
        assert cli.main([*command, "--size", "32", "--progress"]) == 0
        found = sorted(path.relative_to(folder / out).as_posix() for path in (folder / out).rglob("*.png"))
        assert found == ["a.png", "b.png", "more/c.png"]
    assert Image.open(folder / "one/a.png").size == (32, 27)
    for name in ("a.png", "more/c.png"):
        one, three = (read_image(folder / out / name) for out in ("one", "three"))
        torch.testing.assert_close(one, three, rtol=0, atol=1.1 / 255)
    assert "3/3 pictures" in capsys.readouterr().err


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize("loss", ["pixel", "combined"])
def test_train_sr_and_upscale(folder, loss):
    assert train_sr(folder, "--loss", loss, "--precision", "bf16") == 0
    assert (
        cli.main(["upscale", str(folder / "sr.safetensors"), str(folder / "style.png"), str(folder / "large.png")]) == 0
    )
    assert Image.open(folder / "large.png").size == (140, 120)


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
