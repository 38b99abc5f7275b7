"""Pictures that show how an optimisation went: a contact sheet and the curve of its loss."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..files import PathLike
from ..images import SOFTWARE, check_matplotlib, drawable, save_picture, to_picture

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
EXTRA_LINES = (("#56B4E9", "solid"), ("#E69F00", "dashed"), ("#CC79A7", "dashdot"))


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


def loss_curve(
    path: PathLike,
    history: Mapping[str, Sequence[float]],
    title: str = "Loss",
    step: str = "evaluation",
    software: str = SOFTWARE,
) -> None:
    """Writes the curve of the loss and its parts, on a logarithmic scale.

    Args:
        path: As in `write_image`.
        history: Term -> its values, "loss" and any others; those of single layers (with a / in the name) are left out.
        title: Above the curve.
        step: What the values are numbered by.
        software: As in `save_picture`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError, OSError: As `write_image`.
    """
    terms = [term for term in history if "/" not in term]
    curves = {"loss (sum)" if term == "loss" else term: history[term] for term in terms}
    styles = [LINES.get(term, EXTRA_LINES[i % len(EXTRA_LINES)]) for i, term in enumerate(terms)]
    curve_picture(path, curves, styles, title, step, "weighted term", software)


def curve_picture(
    path: PathLike,
    curves: Mapping[str, Sequence[float]],
    styles: Sequence[tuple[str, str]],
    title: str,
    x_label: str,
    y_label: str,
    software: str = SOFTWARE,
) -> None:
    """Writes curves, (colour, dashes) each, on a logarithmic scale. Raises as `loss_curve`."""
    check_matplotlib("the curve")
    from matplotlib.figure import Figure  # not pyplot, which would touch the caller's backend and figures
    from PIL import Image

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for (label, values), (colour, dashes) in zip(curves.items(), styles, strict=True):
        axes.plot(values, color=colour, linestyle=dashes, linewidth=2, label=label)
    axes.set_yscale("log", nonpositive="mask")
    axes.set_title(drawable(title), loc="left", parse_math=False)  # a $ in it is a $
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, which="major", color="#DDDDDD")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    figure.legend(loc="outside right upper", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as picture:
        save_picture(path, picture.convert("RGB"), software)
