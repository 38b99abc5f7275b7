"""Which files of a folder are taken for pictures."""

import os

import pytest

from perceptual_ops.picture_folder import pictures_in


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a/c.JPG", "a.png", "a/.hidden.png", ".cache/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dead.png").symlink_to("missing")
    return tmp_path


def names(folder):
    return [path.relative_to(folder).as_posix() for path in pictures_in(folder)]


def test_all_but_folders_with_the_suffix_of_a_picture(folder):
    """What is no file has to be named by who reads it."""
    assert names(folder) == ["a/c.JPG", "a.png", "b.png", "dead.png", "pipe.png"]


def test_a_folder_that_must_not_be_read_is_left_out(folder, monkeypatch):
    scan = os.scandir

    def refusing(path):
        if os.path.basename(path) in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    refused = ["a"]
    with pytest.warns(RuntimeWarning, match="a: left out, it cannot be read"):
        assert names(folder) == ["a.png", "b.png", "dead.png", "pipe.png"]
    refused = [folder.name]
    with pytest.raises(PermissionError, match="expected a folder that may be read"):
        names(folder)
