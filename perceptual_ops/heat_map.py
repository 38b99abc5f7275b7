"""A map of distances as colours over the picture it belongs to; needs Pillow and matplotlib, the extra [cli]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .images import BAND, check_matplotlib, drawable, to_picture

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from PIL import Image

COLOURS = "plasma"  # steps look equal, and lightness rises all the way, for the colour-blind and in print too
# The same for every distance: at each pixel a larger distance is then a lighter colour, whatever the picture is there.
OPACITY = 0.65
NARROWEST, WIDEST = 200, 8192  # pixels of the scale, for its numbers; matplotlib draws none beyond 65535
INK = "#222222"
POINTS = 72  # an inch; figures are drawn with as many pixels


def heat_map(image: Tensor, distances: Tensor, top: float | None = None, caption: str = "") -> Image.Image:
    """The picture in grey under the colours of its distances, and below them a scale.

    Args:
        image: (1, 3, H, W) in [0, 1].
        distances: (1, 1, H, W), not negative.
        top: Where the scale ends, above 0; larger distances have its last colour. None: the largest distance, rounded
            up to two digits, whose quarters are round, too.
        caption: Below the scale, where it is wide enough.

    Returns:
        RGB, as large as the image and the scale below it.

    Raises:
        ModuleNotFoundError: Pillow or matplotlib is not installed.
    """
    check_matplotlib("the map")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from PIL import Image

    peak = distances.max().item()
    top = _rounded_up(peak) if top is None else top
    colours = ScalarMappable(Normalize(0, top), COLOURS)
    width, height = image.shape[3], image.shape[2]
    scale = _scale(min(max(width, NARROWEST), WIDEST), colours, top, peak > top, caption)
    sheet = Image.new("RGB", (max(width, scale.width), height + scale.height), "white")
    for first in range(0, height, BAND):  # what lies between numbers and colours is many times the picture
        rows = slice(first, first + BAND)
        grey = to_picture(image[:, :, rows]).convert("L").convert("RGB")
        coloured = Image.fromarray(colours.to_rgba(distances[0, 0, rows].cpu().float().numpy(), bytes=True))
        sheet.paste(Image.blend(grey, coloured.convert("RGB"), OPACITY), (0, first))
    sheet.paste(scale, (0, height))
    return sheet


def _scale(width: int, colours: ScalarMappable, top: float, goes_on: bool, caption: str) -> Image.Image:
    """The colours as a bar with numbers on white, which ends in an arrow if distances go on."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure  # not pyplot, which would touch the caller's backend and figures
    from PIL import Image

    size = min(max(width // 32, 12), 48)  # of the letters, in pixels
    figure = Figure((width / POINTS, 5 * size / POINTS), POINTS, facecolor="white")
    axes = figure.add_axes((1.5 * size / width, 0.68, 1 - 3 * size / width, 0.2))
    # Over the middle grey: the colours are then those that lie on the picture, not purer ones.
    muted = OPACITY * colours.cmap(np.arange(colours.cmap.N))[:, :3] + (1 - OPACITY) * 0.5  # (K, 3)
    shown = ScalarMappable(colours.norm, ListedColormap(muted))
    bar = figure.colorbar(shown, axes, orientation="horizontal", extend="max" if goes_on else "neither")
    ticks = torch.linspace(0, top, 3 if width < 30 * size else 5).tolist()
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks], fontsize=size, color=INK)
    canvas = FigureCanvasAgg(figure)
    label = figure.text(0.5, 0.08, drawable(caption), fontsize=size, color=INK, ha="center", parse_math=False)
    if label.get_window_extent(canvas.get_renderer()).width > width:
        label.remove()
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


def _rounded_up(value: float) -> float:
    """The next number of two digits that four divides; 1 for 0, whose picture has the first colour anyway."""
    if not value > 0:
        return 1.0
    unit = 4 * 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
