"""Trained networks over pictures in tiles: what they make of the whole, and which cannot."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from perceptual_ops import cli
from perceptual_ops.images import write_image
from perceptual_ops.recipes import StyleNet, SuperResolutionNet, load_model, save_model
from perceptual_ops.recipes.models import Model
from perceptual_ops.recipes.reach import reach_of
from perceptual_ops.recipes.tiled_network import TiledNetwork


def cloudy(height: int, width: int, batch: int = 1) -> torch.Tensor:
    """Pictures (N, 3, H, W) in [0, 1] whose statistics are not those of a part of them."""
    noise = torch.rand(batch, 3, 4, 5, generator=torch.Generator().manual_seed(height))
    return F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)


def painter(width: int = 4, blocks: int = 2) -> StyleNet:
    """One that has learned something, whatever it is."""
    torch.manual_seed(0)
    net = StyleNet(width, blocks, style=cloudy(20, 30))
    nn.init.normal_(net.last.weight, std=2.0)
    for module in net.modules():
        if isinstance(module, nn.InstanceNorm2d) and module is not net.palette:
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return net.eval()


def enlarger(scale: int = 4) -> SuperResolutionNet:
    torch.manual_seed(0)
    net = SuperResolutionNet(scale, width=4, blocks=1)
    nn.init.normal_(net.last.weight, std=0.3)
    return net.eval()


class Own(nn.Module):
    """Halves, enlarges, shuffles, and pads in ways of its own: for sides that are multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 5, stride=2, padding=2, padding_mode="replicate")
        self.pool = nn.MaxPool2d(2)
        self.far = nn.Conv2d(8, 8, (3, 5), padding=(3, 2), dilation=(3, 1))
        self.norm = nn.Sequential(nn.InstanceNorm2d(8), nn.LeakyReLU(0.2, inplace=True))
        self.up = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)
        self.out = nn.Sequential(nn.Conv2d(8, 12, 1), nn.PixelShuffle(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep = self.norm(self.far(self.pool(self.down(x))))
        return torch.sigmoid(self.out(self.up(deep)) + F.avg_pool2d(x, 3, 1, 1))


def own() -> Own:
    torch.manual_seed(0)
    return Own().eval()


NETWORKS = {"StyleNet": (painter, 1, 1), "SuperResolutionNet": (lambda: enlarger(2), 2, 1), "own": (own, 1, 4)}


@pytest.mark.parametrize("size", [(96, 140), (133, 71)])
@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_give_what_the_whole_gives(name, size):
    """No seam is left, nor are statistics those of tiles."""
    make, scale, multiple = NETWORKS[name]
    network = make()
    model, images = Model("style", scale, multiple, network), cloudy(*size, batch=2)
    side = max(model.tile_side("auto") // 100, model._tiled.least)
    seen = []
    whole, tiled = model(images), model(images, side, lambda done, total: seen.append((done, total)))
    assert whole.std() > 0.02
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-5)
    normalizations = sum(isinstance(module, nn.InstanceNorm2d) for module in network.modules())
    (total,) = {total for _, total in seen}
    assert len(seen) % (normalizations + 1) == 0 and len(seen) > normalizations + 1
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1] == (total, total)


class InPlace(nn.Module):
    """Writes into its images, and reads their neighbours."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x.mul_(0.5).add_(0.2), 5, 1, 2)


def test_a_network_that_writes_into_its_images():
    model, images = Model("style", 1, 1, InPlace()), cloudy(64, 90)
    before = images.clone()
    torch.testing.assert_close(model(images, 20), model(images), rtol=0, atol=1e-6)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_that_bring_less_show(name, monkeypatch):
    """The test above can fail: without what they read of their neighbours, borders of tiles are seen."""
    make, scale, multiple = NETWORKS[name]
    images = cloudy(136, 136)
    tiled = TiledNetwork(make(), scale, multiple)
    for reach in (tiled._rows, tiled._columns):
        object.__setattr__(reach, "before", max(0, reach.before - 2 * reach.unit))
    with torch.no_grad():
        off = (tiled(images, 64) - make()(images)).abs().amax((0, 1))
    assert off.max() > 1e-4
    own = off[: 50 * scale, : 50 * scale]  # of the first tile, which lacks nothing but the statistics
    assert own.max() < off.max() / 2


@pytest.mark.parametrize(
    ("network", "multiple", "expected"),
    [
        (nn.Identity(), 1, (1, 0, 0, Fraction(1))),
        (nn.Conv2d(3, 3, 5, padding=2), 1, (1, 2, 2, Fraction(1))),
        (nn.Conv2d(3, 3, 3, padding=4, dilation=4), 1, (1, 4, 4, Fraction(1))),
        (nn.Conv2d(3, 3, 3), 1, (1, 0, 2, Fraction(1))),
        (nn.Upsample(scale_factor=4, mode="bilinear"), 1, (1, 1, 1, Fraction(4))),
        (nn.Conv2d(3, 3, 3, stride=2, padding=1), 1, (2, 2, 0, Fraction(1, 2))),
        (nn.Sequential(nn.AvgPool2d(8, 8), nn.Upsample(scale_factor=8.0)), 8, (8, 0, 0, Fraction(1))),
        (nn.Sequential(nn.AvgPool2d(64), nn.Upsample(scale_factor=64.0)), 64, (64, 0, 0, Fraction(1))),
        (nn.Conv2d(3, 3, 9, padding=96, dilation=24), 1, (1, 96, 96, Fraction(1))),
        (nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 48, 3, padding=1), nn.PixelShuffle(4)), 4, (4, 4, 4, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_far_a_network_reads(network, multiple, expected):
    rows, columns = reach_of(lambda images: [network(images).detach()], multiple)
    assert (rows.unit, rows.before, rows.after, rows.rates[0]) == expected
    assert columns == rows


class Squeeze(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.mean((2, 3), keepdim=True)


class Placed(nn.Module):
    """Adds what depends on the place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.linspace(0, 1, x.shape[2]).view(-1, 1)


class Healed(nn.Module):
    """Reads ahead, but gives no sign of NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.pad(x, (0, 0, 0, 3), mode="replicate")[:, :, 3:].nan_to_num()


class OfFour(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 4:
            raise RuntimeError("four rows are wanted")
        return x


REFUSED = {
    "a mean": (Squeeze(), 1, "depends on the whole picture"),
    "group normalisation": (nn.GroupNorm(1, 3), 1, "depends on the whole picture"),
    "places": (Placed(), 1, "depends on .* the pixel's place"),
    "what NaN does not show": (Healed(), 1, "depends on .* the pixel's place"),
    "no network": (OfFour(), 1, r"it fails where its reach is measured \(four rows are wanted\)"),
    "another scale": (nn.Upsample(scale_factor=2), 1, "it does not enlarge 1 times"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_in_tiles_is_refused(name):
    network, multiple, sentence = REFUSED[name]
    model = Model("style", 1, multiple, network.eval(), "file")
    with pytest.raises(ValueError, match=f"file: expected a network that can run in tiles, but .*{sentence}"):
        model(torch.rand(1, 3, 64, 64), 32)


def test_a_network_is_left_as_it_is():
    network = painter()
    before = [*network.named_modules()]
    TiledNetwork(network, 1, 1)(cloudy(70, 70), 64)
    assert [*network.named_modules()] == before


def test_sides_beyond_what_goes_whole(monkeypatch):
    monkeypatch.setattr("perceptual_ops.recipes.models.LARGEST", 50)
    model = Model("super-resolution", 4, 1, enlarger())
    assert model(cloudy(60, 40), 20).shape == (1, 3, 240, 160)
    with pytest.raises(ValueError, match=r"sides of 1 to 50 pixels, got 40 x 60; .* or tiles \(--tile\)"):
        model(cloudy(60, 40))


def test_nan_in_a_tile_is_refused():
    model = Model("super-resolution", 4, 1, enlarger())
    images = cloudy(40, 60)
    images[0, 0, 30, 50] = torch.nan
    with pytest.raises(ValueError, match="expected numbers from the model, got NaN"):
        model(images, 20)


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "style.safetensors", painter(), "style")
    save_model(tmp_path / "sr.safetensors", enlarger(), "super-resolution", 4)
    (tmp_path / "in").mkdir()
    for name, size in (("a.png", (70, 131)), ("b.png", (64, 90))):
        write_image(tmp_path / "in" / name, cloudy(*size))
    return tmp_path


@pytest.mark.parametrize(("command", "model"), [("apply", "style"), ("upscale", "sr")])
def test_the_commands(folder, command, model):
    file, least = str(folder / f"{model}.safetensors"), load_model(folder / f"{model}.safetensors")._tiled.least
    for out, options in (("whole", ()), ("tiled", ("--tile", str(least))), ("auto", ("--tile", "auto"))):
        assert cli.main([command, file, str(folder / "in"), str(folder / out), "--device", "cpu", *options]) == 0
    for name in ("a.png", "b.png"):
        whole, tiled, auto = (np.asarray(Image.open(folder / out / name), int) for out in ("whole", "tiled", "auto"))
        assert np.abs(tiled - whole).max() <= 1
        assert np.array_equal(auto, whole)  # one tile is the picture


@pytest.mark.parametrize(
    ("tile", "sentence"),
    [
        ("0", "--tile: expected a whole number from 1 to 8192 or auto, got '0'"),
        ("-4", "--tile"),
        ("small", "--tile: expected a whole number from 1 to 8192 or auto, got 'small'"),
        ("16", 'tile_size: expected "auto" or at least 36 pixels for'),
    ],
)
def test_a_tile_that_is_too_small_is_one_sentence(folder, capsys, tile, sentence):
    """Once, and not with each picture of a folder."""
    command = ["apply", str(folder / "style.safetensors"), str(folder / "in"), str(folder / "out"), f"--tile={tile}"]
    assert cli.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line and not (folder / "out").exists()
