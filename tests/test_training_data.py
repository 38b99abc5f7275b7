"""The data of a training: damaged pictures, and hashes that notice when they changed."""

import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from tiny_training import Stop, losses, run, write_pictures

from perceptual_ops.recipes import (
    TrainingOptions,
    train_super_resolution,
)
from perceptual_ops.recipes.checkpoint import contents, fingerprint

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_said_once_and_keeps_the_curve_a_function_of_the_data(pictures, tmp_path, workers):
    """In processes that read, too; and a run that was killed goes on with the same bits."""
    pictures[1].write_bytes(pictures[1].read_bytes()[:-40])
    options = TrainingOptions(steps=6, batch=2, size=32, save_every=2)
    with pytest.warns(RuntimeWarning):
        run(pictures, tmp_path / "plain.safetensors", options)
    options = replace(options, workers=workers)
    with pytest.warns(RuntimeWarning) as caught, pytest.raises(Stop):
        run(pictures, tmp_path / "model.safetensors", options, stop_after=5)
    assert [str(warning.message).split(": ")[0] for warning in caught] == [str(pictures[1])]
    run(pictures, tmp_path / "model.safetensors", options)
    assert losses(tmp_path / "model.safetensors") == losses(tmp_path / "plain.safetensors")


@pytest.mark.parametrize("workers", [0, 1])
def test_without_a_picture_that_can_be_read(pictures, tmp_path, workers):
    for path in pictures:
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(
        ValueError, match=r"^pictures: expected one that can be read, none of the 3 can, such as [^\n]*$"
    ):
        run(pictures, tmp_path / "model.safetensors", TrainingOptions(steps=2, batch=2, size=32, workers=workers))


def test_a_reader_that_is_killed(pictures, tmp_path, monkeypatch):
    """As the system does where memory ends, or a decoder that crashes."""
    monkeypatch.setattr(
        "perceptual_ops.recipes.picture_pool.read_image", lambda path: os.kill(os.getpid(), signal.SIGKILL)
    )
    with pytest.raises(ChildProcessError, match="workers: expected 1 processes that read pictures, one was killed"):
        run(pictures, tmp_path / "model.safetensors", TrainingOptions(steps=2, batch=2, size=32, workers=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_strict_stops_at_a_damaged_picture(pictures, tmp_path, workers):
    pictures[1].write_bytes(pictures[1].read_bytes()[:-40])
    options = TrainingOptions(steps=20, batch=2, size=32, workers=workers, strict=True)
    with pytest.raises(ValueError, match=r"1\.png: expected a picture, this one is damaged[^\n]*$"):
        run(pictures, tmp_path / "model.safetensors", options)


@pytest.mark.parametrize("edit", ["another picture", "another size", "one bit", "a picture more", "another name"])
def test_pictures_that_changed_under_their_names_are_noticed(pictures, tmp_path, edit):
    """On resume, by the recipe; a copy of the same data elsewhere, of another time, is no change."""
    options = TrainingOptions(steps=2, batch=2, size=32, save_every=1)
    common = {"scale": 2, "loss": "pixel", "options": options}

    def stop(done, numbers):
        if done == 2:  # after the checkpoint of the first
            raise Stop

    with pytest.raises(Stop):
        train_super_resolution(pictures, tmp_path / "model.safetensors", on_step=stop, **common)
    copied = tmp_path / "elsewhere"
    shutil.copytree(pictures[0].parent, copied)
    os.utime(copied / "1.png", (1, 1))
    data = bytearray(pictures[1].read_bytes())
    if edit == "another picture":
        pictures[1].write_bytes(pictures[0].read_bytes())
    elif edit == "another size":
        pictures[1].write_bytes(data + b"x")
    elif edit == "one bit":
        data[len(data) // 2] ^= 1
        pictures[1].write_bytes(data)
    elif edit == "a picture more":
        (pictures[0].parent / "more.png").write_bytes(data)
    else:
        pictures[1].rename(pictures[0].parent / "renamed.png")
    folder = pictures[0].parent
    with pytest.raises(ValueError, match=rf"those in {folder} changed since; put them back, or remove the checkpoint"):
        train_super_resolution(sorted(folder.iterdir()), tmp_path / "model.safetensors", **common)
    assert train_super_resolution(sorted(copied.iterdir()), tmp_path / "model.safetensors", **common) == 0


def test_contents_are_all_bytes_and_names(tmp_path):
    """Wherever a byte differs, in files of one size and one time."""
    path = tmp_path / "large"
    found = []
    for place in (0, 30_000, 50_000, 99_999):
        path.write_bytes(bytes(place) + b"1" + bytes(99_999 - place))
        os.utime(path, (1, 1))
        found.append(contents([path]))
    found += [contents([path, tmp_path / "missing"]), contents([path.rename(tmp_path / "other")]), contents([])]
    assert len(set(found)) == len(found)


def test_fingerprints():
    picture = torch.rand(1, 3, 4, 4)
    found = [
        fingerprint(source)
        for source in (
            picture,
            picture + 1,
            "stlpips",
            "random",
            {"a": picture},
            {"a": -picture},
            {"a": picture.bfloat16(), "b": torch.tensor(3)},
        )
    ]
    assert len(set(found)) == len(found)
    assert fingerprint(picture.clone()) == found[0]
