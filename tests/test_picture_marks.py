"""Pictures say that this library wrote them, so that commands replace those and no others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perceptual_ops import cli, images
from perceptual_ops.picture_outputs import check_writable
from perceptual_ops.recipes import StyleNet, save_model

MARKED = ("png", "jpg", "webp", "tif")
SENTENCE = "was not written by perceptual_ops; move it or choose another name"


def a_picture():
    return torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("suffix", [*MARKED, "bmp"])
def test_what_is_written_is_marked_and_keeps_its_pixels(tmp_path, suffix):
    """Byte for byte what Pillow decodes from its own file without a mark."""
    path, bare = tmp_path / f"out.{suffix}", tmp_path / f"bare.{suffix}"
    images.write_image(path, a_picture())
    picture_format = images.FORMATS[path.suffix]
    images.to_picture(a_picture()).save(bare, picture_format, **images.SAVE_OPTIONS.get(picture_format, {}))
    np.testing.assert_array_equal(*(np.asarray(Image.open(file)) for file in (path, bare)))
    assert images.software_of(bare) == ""
    if suffix in MARKED:
        assert images.software_of(path) == "perceptual_ops"
        check_writable(path)


@pytest.mark.parametrize("suffix", [*MARKED, "bmp"])
@pytest.mark.parametrize("software", ["", "a camera"])
def test_a_picture_of_others_is_no_place_for_an_output(tmp_path, suffix, software):
    path = tmp_path / f"holiday.{suffix}"
    exif = Image.Exif()
    exif[0x0131] = software
    images.to_picture(a_picture()).save(path, **({"exif": exif} if software else {}))
    with pytest.raises(FileExistsError, match=rf"holiday\.{suffix}: .*{SENTENCE}"):
        check_writable(path)
    images.write_image(path, a_picture())  # a program that says so may


def commands(folder):
    data, random, out = str(folder / "data"), ["--weights", "random"], str(folder / "archive")
    one, other, model = f"{data}/a.png", f"{data}/b.png", str(folder / "model.safetensors")
    return {
        "stylize": ["stylize", one, other, "-o", f"{out}/a.png", "--steps", "1", *random],
        "invert": ["invert", one, "-o", f"{out}/a.png", "--steps", "1", *random],
        "apply": ["apply", model, one, f"{out}/a.png"],
        "apply to a folder": ["apply", model, data, out],
        "compare": ["compare", one, other, "--map", f"{out}/a.png", *random],
        "compare folders": ["compare", data, one, "--map", out, *random],
    }


@pytest.mark.parametrize("command", commands(Path()))
def test_commands_replace_their_own_pictures_and_no_others(tmp_path, capsys, command):
    for name in ("data/a.png", "data/b.png", "archive/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        images.to_picture(a_picture()).save(tmp_path / name)
    save_model(tmp_path / "model.safetensors", StyleNet(4, 1), "style")
    before = (tmp_path / "archive/a.png").read_bytes()
    argv = [*commands(tmp_path)[command], "--size", "48", "--device", "cpu"]
    assert cli.main(argv) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "archive/a.png: " in line and line.endswith(SENTENCE)
    assert (tmp_path / "archive/a.png").read_bytes() == before
    (tmp_path / "archive/a.png").unlink()
    for _ in range(2):
        assert cli.main(argv) == 0
