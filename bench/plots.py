"""The plots of README.md and docs/, drawn from the CSVs as SVG: the same bytes from the same rows.

Text is mid-grey on nothing, so that it can be read on light and dark pages. What is drawn is also in the file's
description, as JSON, by which a test compares it with the CSVs whatever matplotlib's version.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

GREY = "#848d97"
# Ours first; the others in the order in which they come. Distinct to the colour-blind (Okabe and Ito 2008).
OURS, COLOURS = "#e69f00", ("#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#999999")
DASHES = ("-", "--", ":")
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


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour for each rival, and a dash for each setting of ours.

    Raises:
        ValueError: There are more of them than can be told apart.
    """
    every = [*dict.fromkeys(names)]
    ours, others = ([name for name in every if name.startswith("ours") is own] for own in (True, False))
    if len(ours) > len(DASHES) or len(others) > len(COLOURS):
        raise ValueError(f"plot: expected up to {len(DASHES)} of ours and {len(COLOURS)} rivals, got {every}")
    return {
        **{name: {"color": OURS, "linestyle": dash} for name, dash in zip(ours, DASHES, strict=False)},
        **{name: {"color": colour} for name, colour in zip(others, COLOURS, strict=False)},
    }


def lines(
    panels: Mapping[str, Series],
    x_label: str,
    y_labels: Sequence[str],
    unit: Callable[[float], str],
    at_least: Collection[tuple[str, str, float]] = (),
) -> str:
    """Lines on logarithmic axes, a panel for each series beside the other, as SVG.

    Args:
        panels: By title.
        y_labels: Of each panel.
        unit: How a number on the x axis is written.
        at_least: Points (title, name, x) that may be higher; an arrow says so.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    with matplotlib.rc_context(style()):
        shown = looks(name for series in panels.values() for name in series)
        figure = Figure(figsize=(3.6 * len(panels), 3.2), layout="constrained")
        for axes, (title, series), y_label in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(),
                                                  y_labels, strict=True):  # fmt: skip
            for name, points in series.items():
                axes.plot(
                    *zip(*points, strict=True), label=name, marker="o", markersize=3, linewidth=1.6, **shown[name]
                )
                for x, y in points:
                    if (title, name, x) in at_least:
                        arrow = {"arrowstyle": "<-", "color": shown[name]["color"]}  # its head is at the second point
                        axes.annotate("", (x, y), (0, 14), textcoords="offset points", arrowprops=arrow)
            ticks = sorted({x for points in series.values() for x, _ in points})
            axes.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
            axes.set_xticks(ticks, [unit(x) for x in ticks])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.6g}")
        drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
        handles = {name: handle for found in drawn for handle, name in zip(*found, strict=True)}
        names = sorted(handles, key=[*shown].index)
        figure.legend([handles[name] for name in names], names, loc="outside upper center", ncols=6, fontsize=8)
        return svg(figure, {"lines": panels, "at least": sorted(at_least)})


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
