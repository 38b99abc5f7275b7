"""The command `compare`: its numbers, its table, its maps, and what it refuses."""

import csv
import math
import statistics
import urllib.error
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

import perceptual_ops as po
from perceptual_ops import cli, compare, heat_map
from perceptual_ops.images import read_image, write_image

LPIPS = ("--metric", "stlpips") if find_spec("stlpips_pytorch") else ("--weights", "random")
WEIGHTS = "stlpips" if find_spec("stlpips_pytorch") else "random"
PATCH = (..., slice(8, 40), slice(56, 88))  # rows and columns that differ


def picture(seed, height=64, width=96):
    """A cloudy picture (3, H, W) in [0, 1]."""
    noise = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0]


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


def run(folder, *options, output="a.png", target="b.png"):
    return cli.main(["compare", str(folder / output), str(folder / target), "--device", "cpu", *map(str, options)])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def by_hand(loss, first, second, **options):
    with torch.no_grad():
        return loss(read_image(first), **{"target": read_image(second), **options}).item()


def lpips():
    return po.LPIPS("alex", weights=WEIGHTS, input_range=(0, 1))


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


def test_maps_of_one_scale_compare(folder, capsys):
    assert run(folder, *LPIPS, "--map", folder / "map.png", "--max", "1e-9") == 0
    found = np.asarray(Image.open(folder / "map.png"))[:64, :96]
    hottest = heat_map.heat_map(read_image(folder / "a.png"), torch.ones(1, 1, 64, 96), top=1.0)
    assert np.array_equal(found[PATCH[1:]], np.asarray(hottest)[:64, :96][PATCH[1:]])


def test_the_colours_of_a_heat_map():
    image = torch.rand(1, 3, 40, 300, generator=torch.Generator().manual_seed(0))
    distances = torch.linspace(0, 0.234, 300).expand(1, 1, 40, -1)
    sheet = heat_map.heat_map(image, distances)
    assert sheet.width == 300 and sheet.height > 40
    luma = (image[0] * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    for column, colour in ((0, heat_map.COLOURS[0]), (299, None)):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)] if colour else _ramp(0.234 / 0.24)  # two digits
        expected = heat_map.OPACITY * torch.tensor(rgb) + (1 - heat_map.OPACITY) * 255 * luma[:, column, None]
        assert np.abs(np.asarray(sheet)[:40, column] - expected.numpy()).max() <= 0.51


def _ramp(place):
    colours = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in heat_map.COLOURS])
    steps = np.linspace(0, 1, len(colours))
    return [np.interp(place, steps, colours[:, channel]) for channel in range(3)]


def test_equal_steps_of_the_colours_look_equal():
    color = pytest.importorskip("skimage.color")
    ramp = np.array([_ramp(place) for place in np.linspace(0, 1, 49)]) / 255
    lab = color.rgb2lab(ramp[None])[0]
    steps = color.deltaE_ciede2000(lab[:-1], lab[1:])
    assert steps.min() > 0.8 * steps.mean() and steps.max() < 1.2 * steps.mean()
    assert np.diff(lab[:, 0]).min() > 0  # in print, too, warmer is lighter


@pytest.mark.parametrize(("value", "top"), [(0.0, 1.0), (0.234, 0.24), (1.2, 1.2), (871.2, 880.0), (3.01e-7, 3.1e-7)])
def test_scales_end_at_two_digits(value, top):
    assert heat_map._rounded_up(value) == pytest.approx(top)


def test_folders_are_compared_pair_by_pair(folders, capsys, monkeypatch):
    made = []
    original = compare.comparison
    monkeypatch.setattr(compare, "comparison", lambda *a, **k: made.append(original(*a, **k)) or made[-1])
    assert run(folders, *LPIPS, "--csv", folders / "out.csv", output="A", target="B") == 0
    assert len(made) == 1
    captured = capsys.readouterr()
    assert "3/3" in captured.err and "3/3" not in captured.out
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
        (lambda root: (root / "A/two.jpg").write_bytes(b""), "one picture of a name"),
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


def test_a_pair_that_fails_keeps_the_rows_before(folders, capsys):
    (folders / "A/two.png").write_text("no picture")
    assert run(folders, *LPIPS, "--csv", folders / "out.csv", output="A", target="B") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "A/two.png: expected a picture" in captured.err.splitlines()[-1]
    assert [row[0] for row in rows(folders / "out.csv")] == ["name", "deep/x.v1.PNG", "one.png"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--metric", "ssim"), "ssim"),
        (("--network", "resnet"), "network: expected alex or vgg16"),
        (("--metric", "stlpips", "--weights", "random"), "weights: expected none for stlpips"),
        (("--layers", "relu1_1"), "layers: expected none for lpips"),
        (("--metric", "content", "--weights", "random", "--layers", "relu9_9"), "relu9_9"),
        (("--weights", "missing.pth"), "missing.pth"),
        (("--size", "0"), "size: expected 1 to"),
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


@pytest.mark.parametrize(("name", "sentence"), [("missing.png", "no such file"), ("text.png", "no format")])
def test_what_is_no_picture(folder, capsys, name, sentence):
    assert run(folder, *LPIPS, target=name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and sentence in line


@pytest.mark.parametrize("place", ["A", "A/maps", "B/deep", "out.csv"])
def test_maps_of_folders_lie_elsewhere(folders, capsys, place):
    (folders / "out.csv").touch()
    assert run(folders, *LPIPS, "--map", folders / place, output="A", target="B") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--map: expected" in line


def test_missing_weights_without_a_network(folder, capsys, monkeypatch):
    def unreachable(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(folder / "empty"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    assert run(folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "alexnet-owt-7be5be79.pth" in line and "put the file at" in line


def test_one_pair_has_no_deviation(folders, capsys):
    for name in ("one.png", "deep/x.v1.PNG"):
        (folders / "A" / name).unlink()
    assert run(folders, *LPIPS, "--skip-unpaired", output="A", target="B") == 0
    out = capsys.readouterr().out
    assert out.endswith(" std 0\n") and not math.isnan(float(out.split()[-3]))
