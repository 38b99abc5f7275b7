"""Maps of distances, of pictures that go through the network in tiles: those of the whole picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comparing import LPIPS as OPTIONS
from comparing import picture, run
from PIL import Image
from torch import Tensor

from perceptual_ops import DISTS, LPIPS
from perceptual_ops.heat_map import heat_map
from perceptual_ops.images import read_image, write_image
from perceptual_ops.recipes.comparison import comparison

SIDE = 64


def pairs(height: int, width: int, samples: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    output, noise = (torch.rand((samples, 3, height, width), dtype=dtype, generator=draw) for _ in range(2))
    return output, 0.7 * output + 0.3 * noise


@pytest.mark.parametrize(
    ("network", "targets", "size"), [("alexnet", 2, (131, 200)), ("alexnet", 1, (150, 67)), ("vgg16", 1, (33, 150))]
)
def test_maps_in_tiles_are_those_of_the_whole(library, network, targets, size):
    """In fp64, of each layer, also where one target is for all."""
    output, target = pairs(*size, samples=2, dtype=torch.float64)
    loss = LPIPS(network, weights="random", spatial=True).double()
    found = []
    for tile_size in (None, SIDE):
        loss.tile_size = tile_size
        with torch.no_grad():
            total, layers = loss(output, target[:targets], return_layers=True)
        found.append([total, *layers, loss(output, target[:targets])])
    assert found[0][0].shape == (2, 1, *size) and len(found[0]) == 7
    for whole, tiled in zip(*found, strict=True):
        torch.testing.assert_close(tiled, whole, rtol=1e-10, atol=1e-13)


def test_maps_in_tiles_of_fp32_round_as_the_whole(library):
    output, target = pairs(133, 90, dtype=torch.float64)
    loss = LPIPS("alexnet", weights="random", spatial=True)
    exact = loss.double()(output, target)
    loss, errors = loss.float(), []
    for tile_size in (None, SIDE):
        loss.tile_size = tile_size
        errors.append((loss(output.float(), target.float()).double() - exact).norm() / exact.norm())
    assert errors[1] <= 2 * max(errors[0], 2.0**-24)


def test_large_maps_go_in_tiles_by_themselves(library, monkeypatch):
    """But for those whose gradient is wanted."""
    monkeypatch.setattr("perceptual_ops.engine.batching.LARGE", 100 * 100)
    monkeypatch.setattr("perceptual_ops.engine.batching.TILE_PIXELS", SIDE * SIDE)
    output, target = pairs(131, 140)
    loss = LPIPS("alexnet", weights="random", spatial=True)
    whole = []
    monkeypatch.setattr(
        loss, "_graph_pairs", lambda *images: whole.append(images) or type(loss)._graph_pairs(loss, *images)
    )
    tiled = loss(output, target)
    assert not whole
    by_graph = loss(output.requires_grad_(), target)
    assert by_graph.requires_grad and len(whole) == 1
    torch.testing.assert_close(tiled, by_graph.detach(), rtol=1e-4, atol=1e-7)


def test_the_map_of_features_in_tiles(library):
    pair = pairs(99, 140)
    maps = []
    for tile_size in (None, 48):
        measure = comparison(
            "content", network="vgg11", weights="random", layers=["relu1_1", "pool2"], tile_size=tile_size
        )
        maps.append(measure.pixels(*pair))
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-4, atol=1e-6 * maps[0].max().item())


def test_what_has_no_tiles_says_so():
    pair = pairs(64, 70)
    with pytest.raises(ValueError, match="tile_size: expected None, since squeezenet1_1 is no chain"):
        comparison("lpips", network="squeeze", weights="random", tile_size=SIDE).pixels(*pair)
    assert DISTS(weights="random").no_tiles() == ""


def test_bands_of_a_heat_map(monkeypatch):
    image, distances = torch.rand(1, 3, 50, 260), torch.rand(1, 1, 50, 260)
    whole = np.asarray(heat_map(image, distances))
    monkeypatch.setattr("perceptual_ops.heat_map.BAND", 16)
    monkeypatch.setattr("perceptual_ops.images.BAND", 7)
    assert np.array_equal(np.asarray(heat_map(image, distances)), whole)


@pytest.fixture
def folder(tmp_path):
    """a.png and b.png (136 x 96), which differ in a corner."""
    first = picture(0, 96, 136)
    second = first.clone()
    second[:, 60:, 90:] = torch.rand(3, 36, 46, generator=torch.Generator().manual_seed(1))
    write_image(tmp_path / "a.png", first)
    write_image(tmp_path / "b.png", second)
    return tmp_path


@pytest.mark.parametrize(
    "metric",
    [OPTIONS, ("--metric", "dists", "--weights", "random"), ("--metric", "style", "--weights", "random"),
     ("--metric", "content", "--weights", "random")],
)  # fmt: skip
def test_the_command_in_tiles(library, folder, capsys, metric):
    for options in ((), ("--tile", str(SIDE)), ("--tile", "auto")):
        assert run(folder, *metric, *options) == 0
    labels, numbers = zip(*(line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines()), strict=True)
    assert len(set(labels)) == 1
    whole, tiled, auto = map(float, numbers)
    assert tiled == pytest.approx(whole, rel=1e-4) and auto == whole > 0


def test_maps_of_the_command_in_tiles(library, folder):
    for name, options in (("whole", ()), ("tiled", ("--tile", str(SIDE)))):
        for suffix in (".png", ".npy"):
            assert run(folder, *OPTIONS, "--map", folder / f"{name}{suffix}", *options) == 0
    whole, tiled = (np.asarray(Image.open(folder / name), int) for name in ("whole.png", "tiled.png"))
    assert np.abs(whole - tiled).max() <= 1
    whole, tiled = (np.load(folder / name) for name in ("whole.npy", "tiled.npy"))
    assert whole.dtype == np.float32 and whole.shape == (96, 136)
    np.testing.assert_allclose(tiled, whole, rtol=1e-4, atol=1e-6 * whole.max())
    with torch.no_grad():
        measure = comparison(
            "stlpips" if "stlpips" in OPTIONS else "lpips", weights=None if "stlpips" in OPTIONS else "random"
        )
        exact = measure.pixels(read_image(folder / "a.png"), read_image(folder / "b.png"))
    np.testing.assert_array_equal(whole, exact[0, 0].numpy())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--tile", "0"), "--tile: expected a whole number from 1 to 8192 or auto"),
        (("--tile", "64", "--metric", "lpips", "--network", "squeeze", "--weights", "random"), "no chain"),
        (("--map", "map.npy", "--max", "1"), "--max: expected a map in colours"),
        (("--map", "taken.npy"), "--map: expected a new name, as no .npy says what wrote it"),
        (("--map", "no/map.npy"), "create it"),
        (("--map", "map.npy", "--metric", "dists"), "no sum over pixels"),
    ],
)
def test_each_error_is_one_sentence(folder, capsys, monkeypatch, options, sentence):
    monkeypatch.chdir(folder)
    (folder / "taken.npy").write_bytes(b"numbers")
    assert run(folder, *OPTIONS, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert (folder / "taken.npy").read_bytes() == b"numbers" and not (folder / "map.npy").exists()


def test_maps_of_a_folder_are_pictures(folder, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes((folder / "a.png").read_bytes())
    assert run(folder, *OPTIONS, "--map", folder / "maps.npy", output="in", target="b.png") == 0
    assert [path.name for path in (folder / "maps.npy").iterdir()] == ["a.png"]
