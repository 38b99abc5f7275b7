"""`make report`: the tables and plots of README.md and docs/, from the CSVs in bench/results.

What lies between `<!-- report: NAME ... -->` and `<!-- /report -->` in Markdown is written by the function of that name
in `REGIONS`. Its last word is a CSV's name without ending; those between say which rows. What was measured with changes
to a commit is not shown. Plots go to docs/plots.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import markdown, plots, sentences
from .results import FOLDER, ROOT, Row, read

PLOTS = ROOT / "docs" / "plots"
REGION = re.compile(r"(?<=<!-- report: )(?P<words>[^>]+?)( -->\n)(?P<text>.*?)(?=<!-- /report -->)", re.DOTALL)


@dataclass
class Report:
    """What the pages hold.

    Attributes:
        root: Of the pages.
        folder: Of the CSVs.
        pages: Text by path.
        plots: SVG by path.
        rows: All rows that a page shows.
    """

    root: Path = ROOT
    folder: Path = FOLDER
    pages: dict[Path, str] = field(default_factory=dict)
    plots: dict[Path, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def make(self) -> Report:
        for page in sorted([self.root / "README.md", *(self.root / "docs").rglob("*.md")]):
            text = page.read_text()
            if "<!-- report: " in text:
                marks = re.findall(r"<!-- (/?report)\b", text)
                if marks != ["report", "/report"] * (len(marks) // 2):
                    raise ValueError(f"{page}: expected a <!-- /report --> after each <!-- report: ... -->")
                self.pages[page] = REGION.sub(lambda found, page=page: self._region(found, page), text)
        return self

    def _region(self, found: re.Match[str], page: Path) -> str:
        name, *words, csv = found["words"].split()
        if name not in REGIONS:
            raise ValueError(f"{page}: report: expected one of {', '.join(REGIONS)}, got {name}")
        path = self.folder / f"{csv}.csv"
        if not path.exists():
            raise ValueError(f"{page}: report {found['words']}: expected a CSV of bench/results, got {csv}")
        text = REGIONS[name](self, page, words, [row for row in read(path) if not row.get("dirty")])
        return f"{found['words']}{found[2]}\n{text}\n\n"

    def shown(self, rows: Sequence[Row], what: str) -> Sequence[Row]:
        """Rows that a page shows.

        Raises:
            ValueError: There are none.
        """
        if not rows:
            raise ValueError(f"report {what}: expected rows in the CSV, got none")
        self.rows += rows
        return rows

    def plot(self, page: Path, name: str, text: str, description: str) -> str:
        path = self.root / PLOTS.relative_to(ROOT) / f"{name}.svg"
        self.plots[path] = text
        return f"![{description}]({os.path.relpath(path, page.parent)})"


def command(suite: str, rows: Sequence[Row]) -> str:
    """What makes rows of a suite."""
    cases = importlib.import_module(f"{__package__}.suites.{suite}").SUITE.cases
    quick = {case.name for case in cases["cuda" if rows[0]["clock"] == "cuda" else "cpu"] if case.quick}
    full = "" if {row["case"] for row in rows} <= quick else " FULL=1"
    return f"make bench ONLY={suite}{full}"


def compared(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    """SUITE [PART ...]: a suite's cases, or those that contain a part, beside their rivals."""
    suite, *parts = words
    meant = [row for row in rows if row["suite"] == suite and row["busy"] == "0" and row["form"] == "compiled"]
    meant = [row for row in meant if not parts or any(part in row["case"] for part in parts)]
    shown = report.shown(meant, f"compared {suite}")
    return f"{markdown.comparison(shown)}\n\n{markdown.caption(shown, command(suite, shown))}"


def of_plain(rows: Sequence[Row]) -> list[Row]:
    return [row | {"case": f"{row['suite']} {row['case']}"} for row in rows if row["form"] == "plain"]


def plain(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    """The library in plain PyTorch beside its rivals."""
    shown = report.shown(of_plain(rows), "plain")
    return f"{markdown.comparison(shown)}\n\n{markdown.caption(shown, 'make bench-plain')}"


def plain_sentence(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    shown = report.shown(of_plain(rows), "plain-sentence")
    return f"{sentences.plain(shown)} *{markdown.caption(shown, 'make bench-plain')}*"


def sentence(name: str) -> Region:
    """The region of a sentence on what was measured."""
    suite, case, say = SENTENCES[name]

    def region(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
        meant = [row for row in rows if row["suite"] == suite and row["busy"] == "0" and row["form"] == "compiled"]
        shown = report.shown([row for row in meant if case in ("", row["case"])], name)
        return f"{say(shown)} *{markdown.caption(shown, command(suite, shown))}*"

    return region


def training(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    shown = report.shown(rows, "training")
    return f"{sentences.training(shown)} *{markdown.caption(shown, 'make bench-training')}*"


def photograph(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    shown = report.shown(rows, "photograph")
    return f"{sentences.photograph(shown)} *{markdown.caption(shown, 'make bench-photograph')}*"


def precision(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    """Of `make accuracy`, which no speed is in: the build alone decides it."""
    return f"{markdown.precision(rows)}\n\nWorst, and in brackets the median; `make accuracy`."


def precision_sentence(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    return f"{sentences.precision(rows)} *`make accuracy`.*"


def steps(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    shown = report.shown([row for row in rows if row["suite"] == "steps" and row["busy"] == "0"], "steps")
    return f"{markdown.steps(shown)}\n\n{markdown.caption(shown, command('steps', shown))}"


def busy(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    cases = {row["case"] for row in rows if row["busy"] != "0"}
    shown = report.shown([row for row in rows if row["case"] in cases], "busy")
    return f"{markdown.busy(shown)}\n\n{markdown.caption(shown, 'make bench BUSY=2')}"


def not_fastest(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    timed = [row for row in rows if row["suite"] != "commits"]
    shown = [row for row, _ in markdown.slower(timed)] + [row for row, _ in markdown.larger(timed)]
    report.shown(shown or timed, "not-fastest")
    tables = f"{markdown.not_fastest(timed)}\n\n{markdown.not_least(timed)}"
    return f"{tables}\n\n{markdown.caption(timed, 'make bench FULL=1')}"


def out_of_memory(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    shown = report.shown(rows, "out-of-memory")
    return f"{markdown.out_of_memory(shown)}\n\n{markdown.caption(shown, 'make out-of-memory')}"


def out_of_memory_plot(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    """LOSS: the largest batch and image against the limit."""
    (loss,) = words
    shown = report.shown([row for row in rows if row["loss"] == loss and int(row["largest"])], "out-of-memory-plot")
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    at_least = []
    for row in shown:
        title, limit = f"largest {row['axis']}", float(row["limit_mb"])
        panels.setdefault(title, {}).setdefault(row["variant"], []).append((limit, float(row["largest"])))
        if row["at_cap"]:
            at_least.append((title, row["variant"], limit))
    labels = ["images of 256x256" if "batch" in title else "pixels on a side" for title in panels]
    text = plots.lines(panels, "memory beyond what torch and the weights take", labels, markdown.memory, at_least)
    picture = report.plot(page, f"out-of-memory-{loss}", text, f"The largest batch and image of {loss} by memory")
    arrows = " Arrows: at least this; the search ended there." if at_least else ""
    return f"{picture}\n\n{markdown.caption(shown, 'make out-of-memory')}{arrows}"


def scaling_plot(report: Report, page: Path, words: Sequence[str], rows: Sequence[Row]) -> str:
    """AXIS SUITE [PART]: time and memory against "batch" or "side" of a suite's cases that contain a part."""
    axis, suite, *parts = words
    meant = [row for row in rows if row["suite"] == suite and row["form"] == "compiled"]
    meant = [row for row in meant if not parts or parts[0] in row["case"]]
    points = markdown.on_axis(meant, axis)
    shown = report.shown([row for of in points.values() for _, row in of], "scaling-plot")
    columns = {"time": "median_ms", "memory": "allocated_mb"}
    panels = {
        title: {name: [(x, float(row[column])) for x, row in of if row[column]] for name, of in points.items()}
        for title, column in columns.items()
    }
    label = "images of 256x256" if axis == "batch" else "pixels on a side"
    text = plots.lines(panels, label, ["ms", "MB"], lambda x: f"{x:.0f}")
    what = " ".join([suite, *parts])
    name = "-".join([*what.split(), axis])
    picture = report.plot(page, name, text, f"Time and memory of {what} against the {axis}")
    return f"{picture}\n\n{markdown.caption(shown, command(suite, shown))}"


# Suite, case (any where empty) and what is said of them.
SENTENCES: Mapping[str, tuple[str, str, Callable[[Sequence[Row]], str]]] = {
    "headline": ("metrics", sentences.HEADLINE, sentences.headline),
    "style": ("loss", sentences.STYLE, sentences.style),
    "chunks": ("loss", sentences.CHUNKS, sentences.chunks),
    "modules": ("modules", "", sentences.modules),
    "adaptive": ("adaptive", "", sentences.adaptive),
}
Region = Callable[[Report, Path, Sequence[str], Sequence[Row]], str]
REGIONS: Mapping[str, Region] = {
    **{name: sentence(name) for name in SENTENCES},
    "training": training,
    "photograph": photograph,
    "compared": compared,
    "plain": plain,
    "plain-sentence": plain_sentence,
    "precision": precision,
    "precision-sentence": precision_sentence,
    "steps": steps,
    "busy": busy,
    "not-fastest": not_fastest,
    "out-of-memory": out_of_memory,
    "out-of-memory-plot": out_of_memory_plot,
    "scaling-plot": scaling_plot,
}


def main() -> int:
    """Writes the pages and plots that differ, and says which."""
    report = Report().make()
    for path, text in {**report.pages, **report.plots}.items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"written: {path.relative_to(ROOT)}")
    for path in sorted(PLOTS.glob("*.svg")):
        if path not in report.plots:
            path.unlink()
            print(f"removed: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
