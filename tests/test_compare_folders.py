"""The command `compare` on folders: which picture meets which, and what is left when it ends early."""

import math
import os
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from comparing import LPIPS, by_hand, lpips, picture, rows, run
from PIL import Image

from perceptual_ops.cli import compare
from perceptual_ops.images import read_image, write_image


@pytest.fixture
def folders(tmp_path):
    """Folders A and B with three pairs: of other suffixes, deeper, of other sizes, grey and transparent."""
    for name in ("A/deep", "B/deep"):
        (tmp_path / name).mkdir(parents=True)
    write_image(tmp_path / "A/two.png", picture(0))
    write_image(tmp_path / "B/two.bmp", picture(1))
    Image.fromarray(np.arange(64 * 72, dtype=np.uint32).reshape(64, 72).astype(np.uint8)).save(tmp_path / "A/one.png")
    Image.new("RGBA", (72, 64), (200, 30, 90, 100)).save(tmp_path / "B/one.png")
    write_image(tmp_path / "A/deep/x.v1.PNG", picture(3))
    write_image(tmp_path / "B/deep/x.v1.png", picture(4))
    (tmp_path / "A/notes.txt").write_text("no picture")
    (tmp_path / "A/._two.png").write_text("what macOS leaves")
    return tmp_path


def test_folders_are_compared_pair_by_pair(folders, capsys, monkeypatch):
    made = []
    original = compare.comparison
    monkeypatch.setattr(compare, "comparison", lambda *a, **k: made.append(original(*a, **k)) or made[-1])
    assert run(folders, *LPIPS, "--csv", folders / "out.csv", "--progress", output="A", target="B") == 0
    assert len(made) == 1
    captured = capsys.readouterr()
    assert "3/3 pairs" in captured.err and "3/3" not in captured.out
    found = rows(folders / "out.csv")[1:]
    pairs = {"deep/x.v1.PNG": "deep/x.v1.png", "one.png": "one.png", "two.png": "two.bmp"}
    assert [row[0] for row in found] == list(pairs)
    loss = lpips()
    exact = [by_hand(loss, folders / "A" / first, folders / "B" / second) for first, second in pairs.items()]
    assert [float(row[2]) for row in found] == pytest.approx(exact, rel=1e-6)
    mean, deviation = statistics.fmean(exact), statistics.pstdev(exact)
    assert captured.out == f"{made[0].label}, 3 pairs: mean {mean:.6g} std {deviation:.6g}\n"


def test_the_same_command_writes_the_same_bytes(folders):
    for out in ("1", "2"):
        places = ("--csv", folders / f"{out}.csv", "--map", folders / out)
        assert run(folders, *LPIPS, *places, output="A", target="B") == 0
    assert (folders / "1.csv").read_bytes() == (folders / "2.csv").read_bytes()
    maps = sorted(path.relative_to(folders / "1").as_posix() for path in (folders / "1").rglob("*.*"))
    assert maps == ["deep/x.v1.png", "one.png", "two.png"]
    assert all((folders / "1" / name).read_bytes() == (folders / "2" / name).read_bytes() for name in maps)


def test_a_folder_against_one_picture(folders, capsys):
    (folders / "A/one.png").unlink()
    assert run(folders, *LPIPS, "--csv", folders / "out.csv", output="A", target="B/two.bmp") == 0
    assert [row[0] for row in rows(folders / "out.csv")[1:]] == ["deep/x.v1.PNG", "two.png"]
    assert run(folders, *LPIPS, output="B/two.bmp", target="A") == 2
    assert "expected a picture" in capsys.readouterr().err.splitlines()[-1]


def test_pictures_without_a_partner(folders, capsys):
    (folders / "B/two.bmp").rename(folders / "B/three.bmp")
    assert run(folders, *LPIPS, output="A", target="B") == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and "A/two.png" in line and "B/three.bmp" in line and "--skip-unpaired" in line
    assert run(folders, *LPIPS, "--skip-unpaired", output="A", target="B") == 0
    captured = capsys.readouterr()
    assert ", 2 pairs: " in captured.out and "A/two.png" in captured.err


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda root: [path.unlink() for path in root.glob("B/**/*.*")], "found none"),
        (lambda root: [path.rename(f"{path}.ppm") for path in root.glob("B/**/*.*")], "no name is in both"),
    ],
)
def test_folders_that_do_not_pair(folders, capsys, make, sentence):
    make(folders)
    assert run(folders, *LPIPS, "--skip-unpaired", output="A", target="B") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_interruption_leaves_complete_rows(folders, capsys, monkeypatch):
    def interrupted(path, *arguments):
        if path.name == "two.bmp":
            raise KeyboardInterrupt
        return read_image(path, *arguments)

    monkeypatch.setattr(compare, "read_image", interrupted)
    assert run(folders, *LPIPS, "--csv", folders / "out.csv", output="A", target="B") == 130
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines()[-1].endswith("interrupted, 2 of 3 pairs were compared")
    assert (folders / "out.csv").read_text().endswith("\n")
    assert [len(row) for row in rows(folders / "out.csv")] == [3, 3, 3]


def test_a_pair_that_fails_is_left_out(folders, capsys, monkeypatch):
    """A text, a damaged picture, one of another size, one without memory, one whose distance is no number."""
    (folders / "A/two.png").write_text("no picture")
    for number, name in enumerate(("half", "odd", "large", "nan", "last")):
        write_image(folders / f"A/{name}.png", picture(20 + number))
        write_image(folders / f"B/{name}.png", picture(9))
    (folders / "B/half.png").write_bytes((folders / "B/half.png").read_bytes()[:-60])
    write_image(folders / "B/odd.png", picture(9, 64, 71))
    compared = compare._compared

    def with_little_memory(pair, *arguments):
        return torch.empty(1 << 50) if pair.name == "large.png" else compared(pair, *arguments)

    def comparison(*arguments, **settings):
        measure = made(*arguments, **settings)

        def distance(output, target):
            found = measure.distance(output, target)
            return found * math.nan if torch.equal(output, read_image(folders / "A/nan.png")) else found

        return replace(measure, distance=distance)

    made = compare.comparison
    monkeypatch.setattr(compare, "_compared", with_little_memory)
    monkeypatch.setattr(compare, "comparison", comparison)
    places = ("--csv", folders / "out.csv", "--map", folders / "maps")
    assert run(folders, *LPIPS, *places, output="A", target="B") == 1
    captured = capsys.readouterr()
    done = ["deep/x.v1.PNG", "last.png", "one.png"]
    assert ", 3 pairs: " in captured.out and "nan" not in captured.out
    assert [row[0] for row in rows(folders / "out.csv")[1:]] == done
    assert sorted(path.stem for path in (folders / "maps").rglob("*.png")) == ["last", "one", "x.v1"]
    told = [line for line in captured.err.splitlines() if line.startswith("perceptual-ops: ")]
    for name, sentence in (
        ("A/two.png", "in none of them"),
        ("B/half.png", "damaged"),
        ("A/odd.png", "expected pictures of one size"),
        ("large.png", "too little memory"),
        ("A/nan.png", "expected a distance that is a number, got nan"),
    ):
        assert sum(name in line and sentence in line for line in told) == 1, (name, *told)
    assert len(told) == 6 and told[-1] == "perceptual-ops: 3 of 8 pairs were compared, 5 left out"


def test_what_is_no_file_or_has_no_name_of_its_own_is_left_out(folders, capsys):
    """Of two pictures whose suffix alone differs, the one whose suffix is in both folders is compared."""
    for name in ("A/dead.png", "A/pipe.png"):
        write_image(folders / name.replace("A", "B"), picture(9))
    (folders / "A/dead.png").symlink_to("unmounted/x.png")
    os.mkfifo(folders / "A/pipe.png")
    write_image(folders / "B/one.bmp", picture(7))
    for target, done in (("B/two.bmp", ["deep/x.v1.PNG", "two.bmp"]), ("B", ["deep/x.v1.PNG", "one.png", "two.bmp"])):
        write_image(folders / "A/two.bmp", picture(0))
        write_image(folders / "A/two.jpg", picture(8))
        assert run(folders, *LPIPS, "--csv", folders / "out.csv", output="A", target=target) == 1
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perceptual-ops: ")]
        for name, sentence in (
            ("A/two.jpg", "expected one picture of a name whatever its suffix"),
            ("A/two.png", "expected one picture of a name whatever its suffix"),
            ("A/dead.png", "this is a link to one that is not there"),
            ("A/pipe.png", "this is no regular file"),
            ("B/one.bmp", "expected one picture of a name") if target == "B" else ("A/one.png", "pictures of one size"),
        ):
            assert sum(name in line and sentence in line for line in told) == 1, (name, *told)
        assert [row[0] for row in rows(folders / "out.csv")[1:]] == done
        assert told[-1] == f"perceptual-ops: {len(done)} of {len(done) + 5} pairs were compared, 5 left out"
    assert run(folders, *LPIPS, "--strict", output="A", target="B") == 2
    assert "expected one picture of a name" in capsys.readouterr().err.splitlines()[-1]


def test_strict_stops_at_the_first(folders, capsys):
    (folders / "A/two.png").write_text("no picture")
    assert run(folders, *LPIPS, "--strict", "--csv", folders / "out.csv", output="A", target="B") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "A/two.png: expected a picture" in captured.err.splitlines()[-1]
    assert [row[0] for row in rows(folders / "out.csv")] == ["name", "deep/x.v1.PNG", "one.png"]


def test_nothing_that_can_be_compared(folders, capsys):
    for path in (folders / "A").rglob("*.[pP]*"):
        path.write_text("no picture")
    assert run(folders, *LPIPS, output="A", target="B") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "none of the 3 can" in captured.err.splitlines()[-1]


def test_a_damaged_picture_for_all_is_said_once(folders, capsys):
    (folders / "bad.png").write_bytes((folders / "A/two.png").read_bytes()[:-60])
    assert run(folders, *LPIPS, output="A", target="bad.png") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bad.png: expected a picture, this one is damaged" in line


@pytest.mark.parametrize("place", ["A", "A/maps", "B/deep", "out.csv"])
def test_maps_of_folders_lie_elsewhere(folders, capsys, place):
    (folders / "out.csv").touch()
    assert run(folders, *LPIPS, "--map", folders / place, output="A", target="B") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--map: expected" in line


def test_maps_of_a_folder_replace_no_other_file(folders, capsys):
    (folders / "maps").mkdir()
    (folders / "maps/two.png").write_text("no picture")
    (folders / "maps/one.png").hardlink_to(folders / "B/one.png")
    for name, sentence in (
        ("one", "expected a place where no input is"),
        ("two", "expected a new name or an earlier result"),
    ):
        assert run(folders, *LPIPS, "--map", folders / "maps", output="A", target="B") == 2
        assert f"maps/{name}.png: {sentence}" in capsys.readouterr().err
        (folders / f"maps/{name}.png").unlink()
    assert run(folders, *LPIPS, "--map", folders / "maps", output="A", target="B") == 0


def test_one_pair_has_no_deviation(folders, capsys):
    for name in ("one.png", "deep/x.v1.PNG"):
        (folders / "A" / name).unlink()
    assert run(folders, *LPIPS, "--skip-unpaired", output="A", target="B") == 0
    out = capsys.readouterr().out
    assert out.endswith(" std 0\n") and not math.isnan(float(out.split()[-3]))


def test_tiles_that_a_network_cannot_have_are_refused_once(folders, capsys):
    options = "--network", "squeeze", "--weights", "random", "--tile", "64"
    assert run(folders, *options, output="A", target="B") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("perceptual-ops: tile_size: expected None, since squeezenet1_1 is no chain")
