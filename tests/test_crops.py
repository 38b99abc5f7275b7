"""Crops for training: where they come from, and that their number alone decides them."""

import pytest
import torch

from perceptual_ops.images import read_image, write_image
from perceptual_ops.recipes import photographs
from perceptual_ops.recipes.crops import RandomCrops


@pytest.fixture
def pictures(tmp_path):
    """Two of ramps along x (red) and y (green), told apart by their blue; and a small one."""
    paths = []
    for number, (height, width) in enumerate([(60, 80), (48, 48), (20, 90)]):
        red = torch.linspace(0, 1, width).expand(height, width)
        green = torch.linspace(0, 1, height).view(-1, 1).expand(height, width)
        blue = torch.full((height, width), number / 2)
        paths.append(tmp_path / f"{number}.png")
        write_image(paths[-1], torch.stack([red, green, blue]))
    return paths


def test_a_crop_depends_on_seed_and_number_alone(pictures):
    crops, again = RandomCrops(pictures, 32, seed=1), RandomCrops(pictures, 32, seed=1)
    wanted = [crops[i] for i in range(8)]
    torch.manual_seed(7)  # the global random numbers do not matter
    assert all(torch.equal(again[i], wanted[i]) for i in reversed(range(8)))
    assert not torch.equal(RandomCrops(pictures, 32, seed=2)[0], wanted[0])
    assert len({crop.sum().item() for crop in wanted}) == 8


def test_crops_are_squares_of_pictures_that_are_large_enough(pictures):
    text = pictures[0].parent / "text.png"
    text.write_text("no picture")
    with pytest.warns(RuntimeWarning) as caught:
        crops = RandomCrops([*pictures, text, "missing.png"], 32)
    unreadable, missing, small = (
        next(str(warning.message) for warning in caught if name in str(warning.message))
        for name in ("text.png", "missing.png", "2.png")
    )
    assert len(caught) == 3 and crops.pool.unreadable == 2
    assert unreadable.startswith(f"{text}: expected a picture") and unreadable.endswith("; it is left out")
    assert "no such file" in missing
    assert small == f"1 of 5 pictures are left out, a side below 32 pixels: {pictures[2]}"
    assert crops.pictures == pictures[:2]
    mirrored, blues, spans = 0, set(), []
    for i in range(60):
        crop = crops[i]
        assert crop.shape == (3, 32, 32) and crop.min() >= 0 and crop.max() <= 1
        slope = float(crop[0, 0, -1] - crop[0, 0, 0])
        assert crop[1, -1, 0] > crop[1, 0, 0]  # never upside down
        mirrored += slope < 0
        blues.add(round(float(crop[2].mean()), 1))
        spans.append(abs(slope))
    assert 15 < mirrored < 45
    assert blues == {0.0, 0.5}
    assert max(spans) > 0.9 and min(spans) < 0.5  # whole pictures, and parts of them


def test_a_share_of_1_takes_the_whole_shorter_side(pictures):
    crops = RandomCrops(pictures[:1], 32, share=1.0)
    for i in range(8):
        assert abs(float(crops[i][1, -1, 0] - crops[i][1, 0, 0])) > 0.9  # of a ramp from 0 to 1


def test_a_share_narrows_how_large_crops_are(pictures):
    def spans(share):
        crops = RandomCrops(pictures[:1], 32, share=share)
        return [abs(float(crops[i][1, -1, 0] - crops[i][1, 0, 0])) for i in range(40)]

    assert min(spans(0.0)) < 0.6 < 0.7 < min(spans(0.75))
    assert max(spans(0.75)) - min(spans(0.75)) > 0.1
    zoomed = RandomCrops(pictures[:1], 32, zoom=1, share=1.0)[0]  # the smaller of both bounds
    assert float(zoomed[1, -1, 0] - zoomed[1, 0, 0]) == pytest.approx(31 / 59, abs=0.01)


def test_zoom_1_takes_pixels_as_they_are(pictures):
    crop = RandomCrops(pictures[:1], 32, zoom=1)[3]
    whole = read_image(pictures[0])[0]
    places = [whole[:, top : top + 32, left : left + 32] for top in range(29) for left in range(49)]
    assert any(torch.equal(crop, place) or torch.equal(crop, place.flip(2)) for place in places)


def damage(path):
    """Its size is still there."""
    path.write_bytes(path.read_bytes()[:-40])


def test_a_damaged_picture_is_left_out(pictures, recwarn):
    damage(pictures[0])
    crops = RandomCrops(pictures[:2], 32)
    found = [crops[i] for i in range(8)]
    assert all(float(crop[2].mean()) == pytest.approx(0.5, abs=0.01) for crop in found)
    (told,) = (str(warning.message) for warning in recwarn)  # once, however often it is drawn
    assert told.startswith(f"{pictures[0]}: expected a picture, this one is damaged") and crops.pool.unreadable == 1
    damage(pictures[1])
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ValueError, match=r"none of the 2 can, such as .*0\.png: expected"),
    ):
        RandomCrops(pictures[:2], 32)[0]


def test_strict_crops(pictures):
    damage(pictures[0])
    crops = RandomCrops(pictures[:2], 32, strict=True)
    with pytest.raises(ValueError, match=r"0\.png: expected a picture, this one is damaged"):
        [crops[i] for i in range(8)]
    with pytest.raises(ValueError, match=r"missing\.png: expected a picture, there is no such file"):
        RandomCrops([*pictures, "missing.png"], 32, strict=True)


def test_errors(pictures):
    with pytest.raises(ValueError, match="with sides of at least 61 pixels, got 3 that are smaller and 0 that cannot"):
        RandomCrops(pictures, 61)
    with pytest.raises(ValueError, match=r"zoom: expected a number of at least 1, got 0\.5"):
        RandomCrops(pictures, 32, zoom=0.5)
    with pytest.raises(ValueError, match=r"share: expected a number in \[0, 1\], got 1\.5"):
        RandomCrops(pictures, 32, share=1.5)
    with (
        pytest.warns(RuntimeWarning, match="no such file"),
        pytest.raises(ValueError, match="got 0 that are smaller and 1 that cannot be read"),
    ):
        RandomCrops(["missing.png"], 32)


def test_photographs_are_there_and_apart():
    held_out = photographs.held_out_photographs()
    assert not set(held_out.values()) & set(photographs.training_photographs())
    for path in [*held_out.values(), *photographs.training_photographs()]:
        assert min(read_image(path).shape[2:]) >= 256, path


def test_a_photograph_whose_package_is_missing(monkeypatch):
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        photographs.photograph("temple")
    with pytest.raises(ValueError, match="name: expected one of rocket"):
        photographs.photograph("nobody")
