"""The colours of a heat map and its scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perceptual_ops import heat_map

matplotlib = pytest.importorskip("matplotlib")

WIDTH, HEIGHT = 300, 40


def pixels(top: float | None = None, caption: str = "", width: int = WIDTH) -> np.ndarray:
    """A map of distances from 0 to 0.234 over a grey picture, as (H, W, 3)."""
    distances = torch.linspace(0, 0.234, width).expand(1, 1, HEIGHT, -1)
    sheet = heat_map.heat_map(torch.full((1, 3, HEIGHT, width), 0.5), distances, top, caption)
    return np.asarray(sheet).astype(float)


def colour(place: float, grey: float) -> np.ndarray:
    """That of a place on the scale, from 0 to 1, over grey (0 to 255)."""
    pure = np.array(matplotlib.colormaps[heat_map.COLOURS](place, bytes=True)[:3], dtype=float)
    return heat_map.OPACITY * pure + (1 - heat_map.OPACITY) * grey


def bar(sheet: np.ndarray) -> np.ndarray:
    """The row amid the bar, (W, 3), without the white on both sides and the frame."""
    coloured = np.flatnonzero(np.ptp(sheet[HEIGHT:], axis=2).max(1) > 60)
    row = sheet[HEIGHT + (coloured[0] + coloured[-1]) // 2]
    inside = np.flatnonzero(np.ptp(row, axis=1) > 20)
    return row[inside[0] : inside[-1] + 1]


def test_the_colours_of_the_map() -> None:
    image = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    distances = torch.linspace(0, 0.234, WIDTH).expand(1, 1, HEIGHT, -1)
    sheet = heat_map.heat_map(image, distances)
    assert sheet.width == WIDTH and sheet.height > HEIGHT
    luma = 255 * (image[0] * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0).numpy()
    for column, place in ((0, 0.0), (WIDTH - 1, 0.234 / 0.24)):
        expected = np.array([colour(place, grey) for grey in luma[:, column]])
        assert np.abs(np.asarray(sheet)[:HEIGHT, column] - expected).max() <= 1.5  # two roundings to 8 bits


def test_the_bar_has_the_colours_of_the_map() -> None:
    found = bar(pixels())
    assert len(found) > 0.8 * WIDTH
    for place in (0.02, 0.25, 0.5, 0.75, 0.98):
        assert np.abs(found[round(place * (len(found) - 1))] - colour(place, 127.5)).max() <= 4


def test_an_arrow_says_that_distances_go_on() -> None:
    def height_at_the_end(sheet: np.ndarray) -> int:
        coloured = np.ptp(sheet[HEIGHT:], axis=2) > 60
        return coloured[:, np.flatnonzero(coloured.any(0))[-3]].sum()

    assert height_at_the_end(pixels(0.1)) < height_at_the_end(pixels(0.3)) == height_at_the_end(pixels())


def test_the_caption_is_written_where_it_fits() -> None:
    plain = pixels()
    assert not np.array_equal(pixels(caption="lpips $x^{: \udce9"), plain)
    assert np.array_equal(pixels(caption="wide " * 20), plain)
    assert not np.array_equal(pixels(caption="wide " * 20, width=4000), pixels(width=4000))


def test_a_picture_wider_than_matplotlib_draws() -> None:
    image = torch.rand(1, 3, 1, 70_000)
    assert heat_map.heat_map(image, image[:, :1]).width == 70_000


@pytest.mark.parametrize(("value", "top"), [(0.0, 1.0), (0.234, 0.24), (1.2, 1.2), (871.2, 880.0), (3.01e-7, 3.2e-7)])
def test_scales_end_at_two_digits(value: float, top: float) -> None:
    assert heat_map._rounded_up(value) == pytest.approx(top)
