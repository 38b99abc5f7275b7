"""Pictures and results that cannot be used: the commands name them, count them and do the rest."""

import os

import pytest
import torch
from train_commands import train_sr, train_style, write_folder

from perceptual_ops import cli
from perceptual_ops.images import read_image, write_image
from perceptual_ops.recipes import Model, StyleNet, load_model, save_model


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


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

    def with_little_memory(model, images, **settings):
        return torch.empty(1 << 50) if images.shape[3] == 71 or len(images) > 1 else called(model, images, **settings)

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
            "long.png: expected images with sides of 1 to 8192 pixels, got 8193 x 1; choose a smaller size "
            "(--size) or tiles (--tile)",
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
    monkeypatch.setattr(Model, "__call__", lambda model, images, **settings: torch.empty(1 << 50))
    assert (
        cli.main(["apply", str(folder / "model.safetensors"), str(folder / "style.png"), str(folder / "out.png")]) == 2
    )
    assert "too little memory" in capsys.readouterr().err
