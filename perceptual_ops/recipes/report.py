"""Pictures that show how an optimisation went: a contact sheet and the curve of its loss."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..images import PathLike, save_picture, to_picture

Row = Sequence[tuple[str, Tensor]]

GAP, CAPTION, FONT_SIZE = 16, 30, 18  # pixels
INK = "#222222"

# Okabe and Ito's colours, which the colour-blind tell apart; each has its own dashes besides.
LINES = {
    "loss": ("#000000", "solid"),
    "content": ("#0072B2", "dashed"),
    "style": ("#D55E00", "dashdot"),
    "tv": ("#009E73", "dotted"),
}


def contact_sheet(path: PathLike, rows: Sequence[Row], width: int = 1200) -> None:
    """Writes pictures with captions, row by row, each row as wide as the sheet.

    Args:
        path: As in `write_image`.
        rows: At least one; each of at least one (caption, picture (1, 3, H, W) in [0, 1]).
        width: Of the sheet, in pixels.

    Raises:
        ValueError, OSError, ModuleNotFoundError: As `write_image`.
    """
    pictures = [[(caption, to_picture(image)) for caption, image in row] for row in rows]
    from PIL import Image, ImageDraw, ImageFont

    heights = []
    for row in pictures:
        aspects = sum(picture.width / picture.height for _, picture in row)
        heights.append(max(1, int((width - GAP * (len(row) + 1)) / aspects)))
    sheet = Image.new("RGB", (width, GAP + sum(height + CAPTION + GAP for height in heights)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    top = GAP
    for row, height in zip(pictures, heights, strict=True):
        left = GAP
        for caption, picture in row:
            picture_width = max(1, int(height * picture.width / picture.height))
            draw.text((left, top), caption, fill=INK, font=font)
            tile = picture.resize((picture_width, height), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left, top + CAPTION))
            left += picture_width + GAP
        top += height + CAPTION + GAP
    save_picture(path, sheet)


def loss_curve(path: PathLike, history: Mapping[str, Sequence[float]], title: str = "Loss") -> None:
    """Writes the curve of the loss and its weighted parts, on a logarithmic scale.

    Args:
        path: As in `write_image`.
        history: Term -> its values, as in `StyleTransferResult`; "loss", "content", "style" and "tv" are drawn.
        title: Above the curve.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError, OSError: As `write_image`.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot, which would touch the caller's backend and figures
    except ImportError:
        raise ModuleNotFoundError(
            "the loss curve needs matplotlib, which is not installed: pip install 'perceptual_ops[demo]'"
        ) from None
    from PIL import Image

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for term, (colour, dashes) in LINES.items():
        if term in history:
            label = "loss (sum)" if term == "loss" else term
            axes.plot(history[term], color=colour, linestyle=dashes, linewidth=2, label=label)
    axes.set_yscale("log", nonpositive="mask")
    axes.set_title(title, loc="left")
    axes.set_xlabel("evaluation")
    axes.set_ylabel("weighted term")
    axes.grid(True, which="major", color="#DDDDDD")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    figure.legend(loc="outside right upper", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as picture:
        save_picture(path, picture.convert("RGB"))
