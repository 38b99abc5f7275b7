"""The colours of a heat-map and its scale."""

import numpy as np
import pytest
import torch

from perceptual_ops import heat_map


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
