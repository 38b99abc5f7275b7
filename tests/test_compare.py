"""The command `compare` on two pictures: its numbers, its maps, and what it refuses."""

import sys
import urllib.error

import numpy as np
import pytest
import torch
from comparing import LPIPS, WEIGHTS, by_hand, lpips, picture, rows, run
from PIL import Image

import perceptual_ops as po
from perceptual_ops import heat_map
from perceptual_ops.cli import compare
from perceptual_ops.images import read_image, write_image

PATCH = (..., slice(8, 40), slice(56, 88))  # rows and columns that differ


@pytest.fixture
def folder(tmp_path):
    """a.png (96 x 64), b.png, which is noisy in PATCH, small.png (48 x 32) and text.png, which is no picture."""
    first = picture(0)
    second = first.clone()
    second[PATCH] = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    write_image(tmp_path / "a.png", first)
    write_image(tmp_path / "b.png", second)
    write_image(tmp_path / "small.png", picture(2, 32, 48))
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "label", "loss"),
    [
        (LPIPS, "stlpips alex" if WEIGHTS == "stlpips" else "lpips alex 0.1 random", lpips),
        (
            ("--weights", "random", "--network", "squeeze"),
            "lpips squeeze 0.1 random",
            lambda: po.LPIPS("squeeze", weights="random", input_range=(0, 1)),
        ),
        (("--metric", "dists", "--weights", "random"), "dists random", lambda: po.DISTS(weights="random")),
        (
            ("--metric", "content", "--weights", "random"),
            "content vgg16 random relu3_3",
            lambda: po.PerceptualLoss(weights="random"),
        ),
        (
            ("--metric", "content", "--network", "vgg11", "--weights", "random", "--layers", "relu1_1,relu2_1"),
            "content vgg11 random relu1_1 relu2_1",
            lambda: po.PerceptualLoss("vgg11", weights="random", content_layers=["relu1_1", "relu2_1"]),
        ),
    ],
)
def test_the_number_is_the_modules(folder, capsys, options, label, loss):
    assert run(folder, *options, "--csv", folder / "out.csv") == 0
    captured = capsys.readouterr()
    exact = by_hand(loss(), folder / "a.png", folder / "b.png")
    assert exact > 0
    assert captured.out == f"{label}: {exact:.6g}\n"
    assert captured.err == ""
    header, row = rows(folder / "out.csv")
    assert header == ["name", "metric", "distance"] and row[:2] == ["a.png", label]
    assert np.float32(row[2]) == np.float32(exact)


def test_the_style_of_pictures_of_any_size(folder, capsys):
    assert run(folder, "--metric", "style", "--weights", "random", target="small.png") == 0
    layers = ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]
    loss = po.PerceptualLoss(weights="random", content_layers=None, style_layers=layers)
    style = read_image(folder / "small.png")
    exact = by_hand(loss, folder / "a.png", folder / "b.png", target=None, style=style)
    assert capsys.readouterr().out == f"style vgg16 random {' '.join(layers)}: {exact:.6g}\n"


def test_a_picture_is_no_way_from_itself(folder, capsys):
    assert run(folder, *LPIPS, target="a.png") == 0
    assert capsys.readouterr().out.endswith(": 0\n")


def test_stlpips_is_lpips_with_its_weights(folder, capsys):
    pytest.importorskip("stlpips_pytorch")
    run(folder, "--metric", "stlpips")
    run(folder, "--weights", "stlpips")
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_sizes_are_brought_together(folder, capsys):
    assert run(folder, *LPIPS, target="small.png") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "96 x 64 and 48 x 32" in line and "--resize" in line
    assert run(folder, *LPIPS, "--resize", target="small.png") == 0
    enlarged = Image.open(folder / "small.png").resize((96, 64), Image.Resampling.LANCZOS)
    enlarged.save(folder / "large.png")
    assert run(folder, *LPIPS, target="large.png") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert run(folder, *LPIPS, "--size", "80", target="small.png", output="small.png") == 0


@pytest.mark.parametrize("metric", [LPIPS, ("--metric", "content", "--weights", WEIGHTS)])
def test_the_map_is_hot_where_the_pictures_differ(folder, capsys, metric):
    for target, out in (("a.png", "same.png"), ("b.png", "map.png")):
        assert run(folder, *metric, "--map", folder / out, target=target) == 0
    same, found = (Image.open(folder / out) for out in ("same.png", "map.png"))
    width, height = found.size
    assert width == heat_map.NARROWEST and height > 64  # the picture is narrower than the legend
    pixels = np.asarray(found.convert("L"), dtype=float)[:64, :96]
    change = pixels - np.asarray(same.convert("L"), dtype=float)[:64, :96]
    assert change.min() >= -1  # nowhere darker, whatever the picture is there
    inside = change[PATCH].mean()
    change[PATCH] = 0
    assert inside > 30 and inside > 8 * change[:, :40].mean()


def test_the_map_adds_up_to_the_distance(folder):
    for metric in ("lpips", "content"):
        measure = compare.comparison(metric, weights="random")
        pair = read_image(folder / "a.png"), read_image(folder / "b.png")
        with torch.no_grad():
            pixels, distance = measure.pixels(*pair), measure.distance(*pair)
        assert pixels.shape == (1, 1, 64, 96)
        assert pixels.mean().item() == pytest.approx(distance.item(), rel=0.1)  # but for the resizing


def test_a_map_in_colours_takes_matplotlib(folder, capsys, monkeypatch):
    """Which is asked for before anything is computed; numbers do without."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(compare, "comparison", None)
    assert run(folder, *LPIPS, "--map", folder / "map.png") == 2
    sentence = "--map needs matplotlib, which is not installed: pip install 'perceptual_ops[cli]'"
    assert sentence in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(folder, *LPIPS, "--map", folder / "map.npy") == 0


def test_maps_of_one_scale_compare(folder, capsys):
    assert run(folder, *LPIPS, "--map", folder / "map.png", "--max", "1e-9") == 0
    found = np.asarray(Image.open(folder / "map.png"))[:64, :96]
    hottest = heat_map.heat_map(read_image(folder / "a.png"), torch.ones(1, 1, 64, 96), top=1.0)
    assert np.array_equal(found[PATCH[1:]], np.asarray(hottest)[:64, :96][PATCH[1:]])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--metric", "ssim"), "ssim"),
        (("--network", "resnet"), "network: expected alex or vgg16"),
        (("--metric", "stlpips", "--weights", "random"), "weights: expected none for stlpips"),
        (("--layers", "relu1_1"), "layers: expected none for lpips"),
        (("--metric", "content", "--weights", "random", "--layers", "relu9_9"), "relu9_9"),
        (("--weights", "missing.pth"), "missing.pth"),
        (("--size", "0"), "--size: expected a whole number from 1 to"),
        (("--size", "8", "--weights", "random"), "at least"),
        (("--max", "1"), "--max: expected --map too"),
        (("--max", "nan", "--map", "out.png"), "--max: expected a number above 0"),
        (("--metric", "dists", "--map", "out.png"), "dists is no sum over pixels"),
        (("--metric", "style", "--map", "out.png"), "style is no sum over pixels"),
        (("--map", "no/out.png"), "create it"),
        (("--map", "out.xyz"), ".png"),
        (("--map", "a.png"), "--map: expected a place other than"),
        (("--csv", "no/out.csv"), "--csv: expected"),
        (("--csv", "b.png"), "--csv: expected"),
        (("--device", "nonsense"), "--device: expected"),
    ],
)
def test_each_error_is_one_sentence(folder, capsys, monkeypatch, options, sentence):
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert run(folder, *options) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("perceptual-ops: ") and sentence in line
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "rows", ["tea,money,12\n", "a.png,lpips alex 0.1,far\n", "a.png,lpips alex 0.1,0.5,more\n", "a.png,dists\n", '"']
)
def test_a_table_of_others_with_the_same_header_is_left_alone(folder, capsys, rows):
    table = folder / "table.csv"
    table.write_text("name,metric,distance\na.png,lpips alex 0.1,0.25\n" + rows)
    before = table.read_bytes()
    assert run(folder, *LPIPS, "--csv", table) == 2
    assert "table.csv is none; choose another name" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_tables_and_maps_replace_no_input_and_no_other_file(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "link.csv").symlink_to("a.png")
    (folder / "hard.csv").hardlink_to(folder / "b.png")
    (folder / "notes.csv").write_text("name,price\n")
    (folder / "map.png").write_text("no picture")
    (folder / "copy.png").hardlink_to(folder / "a.png")
    (folder / "new.csv").symlink_to("new.png")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.exists()}
    for options, sentence in [
        (("--csv", "link.csv"), "link.csv: expected a place where no input is"),
        (("--csv", "hard.csv"), "hard.csv: expected a place where no input is"),
        (("--csv", "notes.csv"), "--csv: expected a new name or a table of compare to replace, notes.csv is none"),
        (("--map", "map.png"), "map.png: expected a new name or an earlier result"),
        (("--map", "copy.png"), "copy.png: expected a place where no input is"),
        (("--map", "new.png", "--csv", "new.csv"), "new.csv: expected a place of its own, new.png is to be written"),
    ]:
        assert run(folder, *LPIPS, *options) == 2
        assert sentence in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.exists()} == before
    (folder / "link.csv").unlink()
    (folder / "link.csv").symlink_to("table.csv")
    for _ in range(2):
        assert run(folder, *LPIPS, "--csv", "link.csv") == 0
    assert (folder / "link.csv").is_symlink() and len(rows(folder / "table.csv")) == 2


@pytest.mark.parametrize(("name", "sentence"), [("missing.png", "no such file"), ("text.png", "in none of them")])
def test_what_is_no_picture(folder, capsys, name, sentence):
    assert run(folder, *LPIPS, target=name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and sentence in line


def test_missing_weights_without_a_network(folder, capsys, monkeypatch):
    def unreachable(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(folder / "empty"))
    monkeypatch.setattr("perceptual_ops.networks.weights.download", unreachable)
    assert run(folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "alexnet-owt-7be5be79.pth" in line and "put the file at" in line
