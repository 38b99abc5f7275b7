"""The command line: what it writes, what it says, and what it leaves behind."""

import sys
import urllib.error
from pathlib import Path

import pytest
import torch
from PIL import Image

import perceptual_ops
from perceptual_ops import cli
from perceptual_ops._native import NativeLibrary
from perceptual_ops.images import write_image


@pytest.fixture
def folder(tmp_path):
    """A folder with content.png (24 x 18), style.png and text.png, which is no picture."""
    generator = torch.Generator().manual_seed(0)
    write_image(tmp_path / "content.png", torch.rand(3, 18, 24, generator=generator))
    write_image(tmp_path / "style.png", torch.rand(3, 30, 20, generator=generator))
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def stylize(folder, *options, content="content.png", style="style.png", out="out.png"):
    quick = ["--weights", "random", "--steps", "3", "--size", "24", "--layers", "relu1_1,relu2_2", "--device", "cpu"]
    return cli.main(["stylize", str(folder / content), str(folder / style), "-o", str(folder / out), *quick, *options])


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("options", [(), ("--optimizer", "adam"), ("--init", "noise", "--seed", "5")])
def test_stylize_writes_a_picture_and_nothing_else(folder, capsys, options):
    before = names(folder)
    assert stylize(folder, "--progress", *options) == 0
    assert names(folder) == sorted([*before, "out.png"])
    assert Image.open(folder / "out.png").size == (24, 18)
    captured = capsys.readouterr()
    assert captured.out.strip() == str(folder / "out.png")
    assert "style=" in captured.err
    assert "100%" in captured.err and "<00:00" in captured.err  # the time that is left


def test_the_same_command_writes_the_same_bytes(folder):
    for out in ("a.png", "b.png"):
        assert stylize(folder, "--init", "noise", out=out) == 0
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    assert stylize(folder, "--init", "noise", "--seed", "1", out="c.png") == 0
    assert (folder / "a.png").read_bytes() != (folder / "c.png").read_bytes()


def test_stylize_at_several_sizes(folder, capsys):
    for scales in ("1", "2"):
        size = ("--size", "96", "--optimizer", "adam", "--scales", scales, "--progress")
        assert stylize(folder, *size, out=f"{scales}.png") == 0
        assert Image.open(folder / f"{scales}.png").size == (96, 72)
    assert (folder / "1.png").read_bytes() != (folder / "2.png").read_bytes()
    assert "6/6" in capsys.readouterr().err  # three steps at each size


@pytest.mark.parametrize(
    ("options", "arguments", "sentence"),
    [
        ((), {"content": "missing.png"}, "no such file"),
        ((), {"style": "text.png"}, "this file is in none of them"),
        (("--size", "0"), {}, "--size: expected a whole number from 1 to"),
        (("--size", "big"), {}, "--size"),
        (("--size", "1"), {}, "at least"),
        (("--steps", "0"), {}, "--steps: expected"),
        (("--style-weight", "0"), {}, "--style-weight: expected"),
        (("--tv-weight", "nan"), {}, "--tv-weight: expected"),
        (("--layers", "relu9_9"), {}, "relu9_9"),
        (("--content-layers", "relu8_8"), {}, "relu8_8"),
        (("--weights", "nonsense"), {}, "nonsense"),
        (("--weights", "missing.pth"), {}, "missing.pth"),
        (("--device", "nonsense"), {}, "--device: expected"),
        (("--optimizer", "sgd"), {}, "sgd"),
        ((), {"out": "no/out.png"}, "create it"),
        ((), {"out": "out.xyz"}, ".png"),
    ],
)
def test_each_error_is_one_sentence(folder, capsys, options, arguments, sentence):
    before = names(folder)
    assert stylize(folder, *options, **arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("perceptual-ops: ") and sentence in line
    assert names(folder) == before


def test_out_may_not_be_a_folder(folder, capsys):
    (folder / "taken.png").mkdir()
    assert stylize(folder, out="taken.png") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_missing_weights_without_a_network(folder, capsys, monkeypatch):
    def unreachable(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(folder / "empty"))
    monkeypatch.setattr("perceptual_ops.networks.weights.download", unreachable)
    assert stylize(folder, "--weights", "imagenet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "vgg16-397923af.pth" in line and "put the file at" in line
    assert not (folder / "out.png").exists()


def test_out_is_checked_before_the_work(folder, monkeypatch):
    monkeypatch.setattr(cli.stylize, "read_image", lambda *_: pytest.fail("work began"))
    assert stylize(folder, out="no/out.png") == 2


@pytest.mark.parametrize("onto", ["content.png", "style.png", "symbolic.png", "hard.png", "notes.png"])
def test_out_replaces_no_input_and_nothing_but_a_picture(folder, capsys, onto):
    (folder / "symbolic.png").symlink_to("content.png")
    (folder / "hard.png").hardlink_to(folder / "style.png")
    (folder / "notes.png").write_text("no picture")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert stylize(folder, out=onto) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{onto}: expected a " in line
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_earlier_result_is_replaced_through_its_link(folder):
    write_image(folder / "earlier.png", torch.zeros(3, 5, 5))
    (folder / "latest.png").symlink_to("earlier.png")
    assert stylize(folder, out="latest.png") == 0
    assert (folder / "latest.png").is_symlink() and Image.open(folder / "earlier.png").size == (24, 18)


def test_interruption_leaves_nothing(folder, capsys, monkeypatch):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    before = names(folder)
    monkeypatch.setattr(cli.stylize, "stylize_coarse_to_fine", interrupted)
    assert stylize(folder) == 130
    assert names(folder) == before
    assert "interrupted" in capsys.readouterr().err.splitlines()[-1]


def test_missing_extra_is_one_sentence(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # how Python marks what cannot be imported
    assert stylize(folder, "--progress") == 2
    assert "pip install 'perceptual_ops[cli]'" in capsys.readouterr().err
    assert stylize(folder) == 0  # where no bar is shown, none is missed


def test_doctor_says_the_facts(library, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    code = cli.main(["doctor"])
    out = capsys.readouterr().out
    assert code == 0
    for fact in (perceptual_ops.__version__, torch.__version__, sys.version.split()[0], "cpu", "[cli]", "stlpips"):
        assert fact in out
    (line,) = [line for line in out.splitlines() if line.startswith("imagenet vgg16")]
    assert "missing" in line and str(tmp_path) in line
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth").touch()
    cli.main(["doctor"])
    assert any(line.startswith("imagenet vgg16") and "present" in line for line in capsys.readouterr().out.splitlines())


def test_doctor_speaks_of_every_extra():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    extras = pytest.importorskip("tomllib").loads(text)["project"]["optional-dependencies"]
    own = {name: [package for package in extras[name] if "[" not in package] for name in extras}
    assert {name: list(packages) for name, packages in cli.doctor.EXTRAS.items()} == own


@pytest.mark.parametrize("is_broken", [False, True])
def test_doctor_fails_where_the_library_does(is_broken, capsys, monkeypatch):
    """Plain PyTorch where there is none is as it may be."""
    reason = "_C.so is as a test wants it"
    monkeypatch.setattr(cli.doctor, "native", NativeLibrary(reason, reason, is_broken=is_broken))
    assert cli.main(["doctor"]) == is_broken
    out = capsys.readouterr().out
    assert f"library                  {reason}" in out and f"; plain PyTorch: {reason}" in out


def test_doctor_notices_a_wrong_operator(library, capsys, monkeypatch):
    monkeypatch.setattr(cli.doctor, "gram_matrix", lambda x, backend: torch.zeros(2, 8, 8, device=x.device))
    assert cli.main(["doctor"]) == 1
    assert "fails" in capsys.readouterr().out


def test_no_command_is_one_sentence(capsys):
    assert cli.main([]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "stylize LONG style.png -o out.png",
        "stylize content.png style.png -o LONG.png",
        "stylize content.png style.png -o out.png --weights LONG.pth",
        "invert content.png -o LONG.png",
        "apply LONG content.png out.png",
        "apply model LONG out.png",
        "apply model content.png LONG.png",
        "compare LONG content.png",
        "compare content.png LONG",
        "compare content.png style.png --resize --weights random --map LONG.png",
        "compare content.png style.png --resize --weights random --csv LONG.csv",
        "compare . content.png --resize --weights random --map LONG",
        "train-sr -o LONG.safetensors",
        "train-sr -o m.safetensors --export LONG.pt2",
        "train-sr -o m.safetensors --data LONG",
        "train-sr -o m.safetensors --data . --size 8 --weights LONG.pth",
        "train-style LONG -o m.safetensors",
    ],
)
def test_a_name_that_is_too_long_is_one_sentence(folder, capsys, monkeypatch, command):
    monkeypatch.chdir(folder)
    assert cli.main([word.replace("LONG", "x" * 300) for word in command.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "x" * 300 in line and ": expected " in line and "Errno" not in line
