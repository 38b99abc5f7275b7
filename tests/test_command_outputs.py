"""Commands write over earlier results, and over nothing else; what compare and trainings keep, their own tests say."""

import pytest
import torch

from perceptual_ops import cli
from perceptual_ops.images import write_image
from perceptual_ops.recipes import StyleNet, save_model


@pytest.fixture
def folder(tmp_path):
    """style.png, a folder of pictures, and text.png, which is no picture."""
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name in ("style.png", "data/a.png", "data/b.jpg", "data/more/c.png"):
        write_image(tmp_path / name, torch.rand(3, 18, 24, generator=torch.Generator().manual_seed(0)))
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def test_invert_replaces_no_input(folder, capsys):
    (folder / "link.png").symlink_to("style.png")
    before = (folder / "style.png").read_bytes()
    for name in ("style.png", "link.png"):
        command = ["invert", str(folder / "style.png"), "-o", str(folder / name), "--weights", "random", "--steps", "1"]
        assert cli.main(command) == 2
        assert "expected a place where no input is" in capsys.readouterr().err
    assert (folder / "style.png").read_bytes() == before and (folder / "link.png").is_symlink()


def test_apply_replaces_no_input_and_nothing_but_pictures(folder, capsys):
    """Results of a folder too, and the model."""
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    (folder / "model.png").symlink_to("model.safetensors")
    (folder / "out").mkdir()
    (folder / "out" / "a.png").hardlink_to(folder / "data" / "b.jpg")
    (folder / "out" / "b.png").write_text("no picture")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    for source, target, sentence in [
        ("style.png", "model.png", "model.png: expected a place where no input is"),
        ("style.png", "text.png", "text.png: expected a new name or an earlier result"),
        ("data", "out", "out/a.png: expected a place where no input is"),
    ]:
        assert cli.main(["apply", *(str(folder / name) for name in ("model.safetensors", source, target))]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert sentence in line
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    (folder / "out" / "a.png").unlink()
    assert cli.main(["apply", *(str(folder / name) for name in ("model.safetensors", "data", "out"))]) == 2
    assert "out/b.png: expected a new name or an earlier result" in capsys.readouterr().err
    (folder / "out" / "b.png").unlink()
    for _ in range(2):  # over its own results
        assert cli.main(["apply", *(str(folder / name) for name in ("model.safetensors", "data", "out"))]) == 0


@pytest.mark.parametrize("command", ["apply", "compare"])
def test_places_below_an_output_are_checked_before_the_work(folder, capsys, monkeypatch, command):
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    out, data = folder / "out", str(folder / "data")
    argv = ["apply", str(folder / "model.safetensors"), data, str(out)]
    if command == "compare":
        argv = ["compare", data, str(folder / "style.png"), "--weights", "random", "--map", str(out)]
    module = getattr(cli, command)
    monkeypatch.setattr(module, "checked_device", lambda name: pytest.fail("work began"))
    out.mkdir()
    (out / "more").write_text("no folder")
    assert cli.main(argv) == 2
    assert "out/more: expected a folder, or a place for one" in capsys.readouterr().err.splitlines()[-1]
    (out / "more").unlink()
    (out / "b.png").mkdir()
    assert cli.main(argv) == 2
    assert "out/b.png: expected the name of a picture, this is a folder" in capsys.readouterr().err.splitlines()[-1]
    (out / "b.png").rmdir()
    out.rmdir()
    out.symlink_to("nowhere")
    assert cli.main(argv) == 2
    assert "out: expected a folder" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_cannot_be_made(folder, capsys):
    """What os.access does not know: even root makes no folder there."""
    save_model(folder / "model.safetensors", StyleNet(4, 1), "style")
    assert cli.main(["apply", str(folder / "model.safetensors"), str(folder / "data"), "/proc/nothing"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "/proc/nothing: expected a folder" in line and "Errno" not in line
