"""Stylising pictures that go through the network in tiles, and the sizes and steps on the way there."""

import numpy as np
import pytest
import torch
from PIL import Image

from perceptual_ops import cli
from perceptual_ops.images import write_image
from perceptual_ops.recipes import style_transfer as recipe
from perceptual_ops.recipes import style_transfer_loss, stylize, stylize_coarse_to_fine
from perceptual_ops.recipes.optimization import Objective, minimize_with_lbfgs, steps_remembered

LAYERS = {"content_layers": ("relu2_2",), "style_layers": ("relu1_1", "relu2_1")}
TILE = 32


def picture(seed: int, height: int, width: int) -> torch.Tensor:
    """A cloudy picture (1, 3, H, W) in [0, 1]."""
    noise = torch.rand(1, 3, height // 6, width // 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")


@pytest.fixture
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    return picture(0, 70, 101), picture(1, 67, 64)


def loss_of(content: torch.Tensor, style: torch.Tensor, tile_size: int | None = None):
    return style_transfer_loss(content, style, weights="random", tile_size=tile_size, **LAYERS)


def test_tiles_give_the_same_loss(library, pictures):
    whole, tiled = loss_of(*pictures), loss_of(*pictures, TILE)
    assert tiled.content_weights == pytest.approx(whole.content_weights, rel=1e-5)
    assert tiled.style_weights == pytest.approx(whole.style_weights, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_tiles_paint_the_same_picture(library, pictures, optimizer):
    results = [stylize(*pictures, loss=loss_of(*pictures, side), steps=4, optimizer=optimizer) for side in (None, TILE)]
    torch.testing.assert_close(results[1].image, results[0].image, rtol=0, atol=5e-3)
    for term in ("content", "style", "tv"):
        assert results[1].history[term] == pytest.approx(results[0].history[term], rel=1e-3)


def test_features_of_a_large_content_are_not_kept(library, pictures):
    """They would be several times the picture."""
    kept = []
    for side in (None, TILE):
        loss = loss_of(*pictures, side)
        stylize(*pictures, loss=loss, steps=1, optimizer="adam")
        kept.append("content" in loss._kept)
    assert kept == [True, False]


def test_a_layer_that_sees_nothing_is_named_in_tiles(library, pictures):
    weights = loss_of(*pictures).frozen_network.state_dict()
    weights["conv2_2.weight"].zero_()
    with pytest.raises(ValueError, match="content_layers: expected layers that the picture excites, relu2_2"):
        style_transfer_loss(*pictures, weights=weights, tile_size=TILE, **LAYERS)


def test_lbfgs_remembers_less_of_large_pictures():
    shapes = [(1, 3, 512, 512), (1, 3, 2048, 2048), (1, 3, 4096, 2732), (1, 3, 8192, 8192)]
    remembered = [steps_remembered(torch.empty(shape, device="meta")) for shape in shapes]
    assert remembered == [20, 20, 7, 3]


def test_lbfgs_is_told_how_much(pictures, monkeypatch):
    """Two steps in place of twenty lead elsewhere."""
    content, style = pictures
    loss = loss_of(content, style)
    loss.set_content(content)
    loss.set_style(style)
    found = []
    for most in (20, 1):
        monkeypatch.setattr("perceptual_ops.recipes.optimization.MAX_STEPS", most)
        monkeypatch.setattr("perceptual_ops.recipes.optimization.MIN_STEPS", 1)
        image = content.clone().requires_grad_()
        minimize_with_lbfgs(Objective(loss, image, (), None), image, 15)
        found.append(image.detach())
    assert not torch.equal(*found)


def test_steps_of_each_size(pictures):
    seen = []
    settings = {"make_loss": loss_of, "optimizer": "adam", "on_step": lambda step, terms: seen.append(step)}
    result = stylize_coarse_to_fine(*pictures, scales=2, steps=[3, 1], snapshots_at=range(4), **settings)
    assert seen == [0, 1, 2, 3]
    assert [image.shape[2] for image in result.snapshots.values()] == [35, 35, 35, 70]
    for steps in ([3], [3, 2, 1], "32"):
        with pytest.raises(ValueError, match="steps: expected a number, or one for each of the 2 sizes"):
            stylize_coarse_to_fine(*pictures, scales=2, steps=steps, **settings)


def test_a_small_style_stays_as_it_is_while_the_content_is_larger():
    losses = []

    def make_loss(content, style):
        losses.append((max(content.shape[2:]), style.shape[2:]))
        return loss_of(content, style)

    content, style = picture(0, 160, 256), picture(1, 48, 96)
    stylize_coarse_to_fine(content, style, scales=3, steps=1, optimizer="adam", make_loss=make_loss)
    assert losses == [(64, (32, 64)), (128, (48, 96)), (256, (48, 96))]


@pytest.mark.parametrize(("side", "scales"), [(24, 1), (512, 1), (513, 2), (1024, 2), (4096, 4), (8192, 5)])
def test_sizes_up_from_512(side, scales):
    content, style = (torch.empty(1, 3, height, side, device="meta") for height in (side // 2, side))
    assert recipe.fitting_scales(content, style) == scales


@pytest.mark.parametrize(("height", "scales"), [(31, 1), (63, 1), (64, 2), (127, 2), (128, 3), (512, 4)])
def test_no_more_sizes_than_there_are_pixels_for(height, scales):
    content, narrow = (torch.empty(1, 3, high, 4096, device="meta") for high in (4096, height))
    assert recipe.fitting_scales(content, narrow) == recipe.fitting_scales(narrow, content) == scales


@pytest.fixture
def folder(tmp_path, pictures):
    for name, image in zip(("content.png", "style.png"), pictures, strict=True):
        write_image(tmp_path / name, image)
    return tmp_path


def run(folder, *options, out="out.png"):
    names = [str(folder / name) for name in ("content.png", "style.png")]
    quick = ["--weights", "random", "--layers", "relu1_1,relu2_1", "--content-layers", "relu2_2", "--device", "cpu"]
    return cli.main(
        ["stylize", *names, "-o", str(folder / out), "--size", "96", "--optimizer", "adam", *quick, *options]
    )


def test_the_command_in_tiles(library, folder):
    for name, options in (("whole.png", ()), ("tiled.png", ("--tile", str(TILE))), ("auto.png", ("--tile", "auto"))):
        assert run(folder, "--steps", "4", *options, out=name) == 0
    whole, tiled, auto = (np.asarray(Image.open(folder / name), int) for name in ("whole.png", "tiled.png", "auto.png"))
    assert np.abs(tiled - whole).max() <= 2
    assert np.array_equal(auto, whole)  # one tile is the picture


def test_the_command_makes_steps_of_each_size(folder, monkeypatch):
    monkeypatch.setattr(recipe, "COARSEST", 48)
    sizes = []
    made = recipe.stylize
    monkeypatch.setattr(recipe, "stylize", lambda *pictures, **settings: sizes.append(
        (*(max(picture.shape[2:]) for picture in pictures), settings["steps"])
    ) or made(*pictures, **settings))  # fmt: skip
    assert run(folder, "--steps", "3,1") == 0
    assert run(folder, "--steps", "2", "--style-size", "64") == 0
    assert sizes == [(48, 48, 3), (96, 96, 1), (48, 48, 2), (96, 64, 2)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--tile", "0"), "--tile: expected a whole number from 1 to"),
        (("--tile", "large"), "--tile: expected a whole number from 1 to 8192 or auto, got 'large'"),
        (("--steps", "3,2"), "steps: expected a number, or one for each of the 1 sizes; got [3, 2]"),
        (("--steps", "3,0"), "--steps: expected a whole number from 1 to"),
        (("--steps", "3,"), "--steps: expected a whole number from 1 to"),
        (("--style-size", "0"), "--style-size: expected a whole number"),
    ],
)
def test_each_error_is_one_sentence(folder, capsys, options, sentence):
    assert run(folder, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line and not (folder / "out.png").exists()
