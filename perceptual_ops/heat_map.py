"""A map of distances as colours over the picture it belongs to; needs Pillow, the extra [cli]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .images import BAND, drawable, to_picture

if TYPE_CHECKING:
    from PIL import Image

# From navy to yellow in steps that look equal (CIEDE2000). Lightness rises all the way, in the eyes of the colour-blind
# and in print too, and the chroma is held back until that is so.
COLOURS = (
    "#082866", "#3A298E", "#702A94", "#9F2990", "#C42D83", "#DF3D73", "#F15365", "#F96D59", "#FB8854", "#FCA04F",
    "#FDBA53", "#FCD456", "#F5F069",
)  # fmt: skip
# The same for every distance: at each pixel a larger distance is then a lighter colour, whatever the picture is there.
OPACITY = 0.65
LUMA = (0.299, 0.587, 0.114)
NARROWEST = 200  # pixels, for the numbers of the legend
INK = "#222222"


def heat_map(image: Tensor, distances: Tensor, top: float | None = None, caption: str = "") -> Image.Image:
    """The picture in grey under the colours of its distances, and below them a scale.

    Args:
        image: (1, 3, H, W) in [0, 1].
        distances: (1, 1, H, W), not negative.
        top: Where the scale ends, above 0; larger distances have its last colour. None: the largest distance, rounded
            up to two digits.
        caption: Below the middle of the scale, where it is wide enough.

    Returns:
        RGB, as large as the image and the scale below it.
    """
    peak = distances.max().item()
    top = _rounded_up(peak) if top is None else top
    width, height = image.shape[3], image.shape[2]
    legend = _legend(max(width, NARROWEST), f"{top:.3g}{' or more' if peak > top else ''}", caption)
    from PIL import Image

    sheet = Image.new("RGB", (legend.width, height + legend.height), "white")
    for first in range(0, height, BAND):  # what lies between numbers and colours is many times the picture
        rows = slice(first, first + BAND)
        grey = (image[0, :, rows].cpu().float() * torch.tensor(LUMA).view(3, 1, 1)).sum(0)  # (h, W)
        sheet.paste(to_picture(_coloured(distances[0, 0, rows].cpu().float() / top, grey)), (0, first))
    sheet.paste(legend, (0, height))
    return sheet


def _coloured(values: Tensor, grey: Tensor) -> Tensor:
    """Values (H, W), from 0 to 1 of the scale, as colours over grey (H, W): (3, H, W)."""
    colours = torch.tensor([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in COLOURS])  # (K, 3)
    place = values.clamp(0, 1) * (len(COLOURS) - 1)
    below = place.floor().long().clamp(max=len(COLOURS) - 2)
    mixed = torch.lerp(colours[below], colours[below + 1], (place - below).unsqueeze(-1))  # (H, W, 3)
    return torch.lerp(grey.unsqueeze(0), mixed.permute(2, 0, 1), OPACITY)


def _legend(width: int, top: str, caption: str) -> Image.Image:
    """The scale as a bar on white, with 0 at its left end and `top` at its right."""
    from PIL import Image, ImageDraw, ImageFont

    caption, size = drawable(caption), min(max(width // 32, 12), 48)
    gap, font = size // 2, ImageFont.load_default(size)
    legend = Image.new("RGB", (width, 2 * gap + 2 * size + gap), "white")
    length = width - 2 * gap
    # Over the middle grey: the colours are then those that lie on the picture, not purer ones.
    bar = to_picture(_coloured(torch.linspace(0, 1, length).expand(size, -1), torch.full((size, length), 0.5)))
    legend.paste(bar, (gap, gap))
    draw, line = ImageDraw.Draw(legend), gap + size + gap // 2
    draw.text((gap, line), "0", fill=INK, font=font)
    draw.text((width - gap, line), top, fill=INK, font=font, anchor="ra")
    if draw.textlength(caption, font) < length - 2 * draw.textlength(f"{top}  ", font):
        draw.text((width / 2, line), caption, fill=INK, font=font, anchor="ma")
    return legend


def _rounded_up(value: float) -> float:
    """The next number of two digits; 1 for 0, whose picture has the first colour anyway."""
    if not value > 0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
