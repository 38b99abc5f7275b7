"""The plots of README.md and docs/, drawn from the CSVs as SVG: the same bytes from the same rows.

Text is mid-grey on nothing, so that it can be read on light and dark pages. What is drawn is also in the file's
description, as JSON, by which a test compares it with the CSVs whatever matplotlib's version.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

GREY = "#848d97"
# Ours first; the others in the order in which they come. Distinct to the colour-blind (Okabe and Ito 2008).
OURS, COLOURS = "#e69f00", ("#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#999999")
# Points (x, y) of each line, by its name.
Series = Mapping[str, Sequence[tuple[float, float]]]


def style() -> dict[str, Any]:
    return {
        "svg.hashsalt": "perceptual_ops",
        "svg.fonttype": "none",  # text stays text, in the page's fonts
        "font.family": "sans-serif",
        "font.size": 9,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        **{name: GREY for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
        **{name: GREY for name in ("grid.color", "axes.titlecolor")},
    }


def colours(names: Sequence[str]) -> dict[str, str]:
    others = [name for name in names if not name.startswith("ours")]
    found = dict(zip(others, COLOURS, strict=False))
    return {name: found.get(name, OURS) for name in names}


def lines(panels: Mapping[str, Series], x_label: str, y_labels: Sequence[str], unit: Callable[[float], str]) -> str:
    """Lines on logarithmic axes, a panel for each series beside the other, as SVG.

    Args:
        panels: By title.
        y_labels: Of each panel.
        unit: How a number on the x axis is written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(3.6 * len(panels), 2.9), layout="constrained")
        for axes, (title, series), y_label in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(),
                                                  y_labels, strict=True):  # fmt: skip
            shades, ours = colours([*series]), 0
            for name, points in series.items():
                marks = {"color": shades[name], "marker": "o", "markersize": 3, "linewidth": 1.6}
                if name.startswith("ours"):
                    marks["linestyle"], ours = ("-", "--", ":")[ours % 3], ours + 1
                axes.plot(*zip(*points, strict=True), label=name, **marks)
            ticks = sorted({x for points in series.values() for x, _ in points})
            axes.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
            axes.set_xticks(ticks, [unit(x) for x in ticks])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.6g}")
            axes.legend(fontsize=8)
        return svg(figure, panels)


def svg(figure: Any, data: Any) -> str:
    """With what is drawn in its description, and no date."""
    written = io.BytesIO()
    description = json.dumps(data, separators=(",", ":"))
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Description": description})
    return "\n".join(line.rstrip() for line in written.getvalue().decode().splitlines()) + "\n"


def data_of(text: str) -> Any:
    """What an SVG of ours draws."""
    from xml.etree import ElementTree

    (described,) = ElementTree.fromstring(text).iter("{http://purl.org/dc/elements/1.1/}description")
    return json.loads(described.text or "")
