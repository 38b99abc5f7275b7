"""The tables of docs/paper.md and docs/levels.md from the results in docs/paper."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from .common import RESULTS, ROOT
from .scores import HIGHER_IS_BETTER


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seconds(value: float) -> str:
    return f"{value:.3g} s"


def speed_table() -> str:
    found = json.loads((RESULTS / "speed.json").read_text())
    rows, counts = [], []
    for size, times in found["sizes"].items():
        counts = [count for count in times if count != "one pass"]
        steps = [times[count] for count in counts]
        ratios = " ".join(f"{step / times['one pass']:.0f}x" for step in steps)
        evaluations = [f"{step:,.1f} s" for step in steps]
        rows.append([f"{size} x {size}", *evaluations, seconds(times["one pass"]), ratios])
    header = ["pixels", *(f"{count} evaluations" for count in counts), "one pass", "ratios"]
    return f"Measured on {found['machine']}, both in bf16.\n\n{markdown(header, rows)}"


def objective_text() -> str:
    found = json.loads((RESULTS / "objective.json").read_text())["pictures"]
    rows = [
        [
            name,
            *(f"{one[key]:.3f}" for key in ("photograph", "palette", "one pass", "optimised")),
            str(one["overtaken"] or "never"),
        ]
        for name, one in found.items()
    ]
    overtaken = [one["overtaken"] or math.inf for one in found.values()]
    better = sum(one["one pass"] < one["photograph"] for one in found.values())
    least, middle, most = (
        "never" if value == math.inf else f"after {value:.0f} evaluations"
        for value in (min(overtaken), statistics.median(overtaken), max(overtaken))
    )
    said = (
        f"One pass lowers the loss of {better} of {len(found)} photographs. The optimiser overtakes it {least} at the "
        f"earliest, {most} at the latest, {middle} in the middle."
    )
    header = [
        "held-out photograph",
        "loss as it is",
        "in the style's palette",
        "after one pass",
        "after 500 evaluations",
    ]
    return f"{said}\n\n{markdown([*header, 'overtaken at'], rows)}"


def score_rows(found: Mapping[str, Sequence[Mapping[str, float]]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows; the best mean of each column is bold, the spread is from least to most over the seeds."""
    names = list(next(iter(found.values()))[0])
    means = {one: {name: statistics.fmean(run[name] for run in runs) for name in names} for one, runs in found.items()}
    best = {
        name: (max if name in HIGHER_IS_BETTER else min)(means, key=lambda one, name=name: means[one][name])
        for name in names
    }
    rows = []
    for one, runs in found.items():
        cells = []
        for name in names:
            digits = 2 if name == "PSNR" else 4
            text = f"{means[one][name]:.{digits}f}"
            if len(runs) > 1:
                values = [run[name] for run in runs]
                text += f" [{min(values):.{digits}f}-{max(values):.{digits}f}]"
            cells.append(f"**{text}**" if best[name] == one else text)
        rows.append([one, *cells])
    return names, rows


def super_resolution_table(scale: int) -> str:
    found = json.loads((RESULTS / f"sr-x{scale}.json").read_text())
    names, rows = score_rows(found["scores"])
    header = ["x" + str(scale), *(f"{name} {'up' if name in HIGHER_IS_BETTER else 'down'}" for name in names)]
    return markdown(header, rows)


def levels_table() -> str:
    levels = json.loads((RESULTS / "levels.json").read_text())
    found, loudest = levels["scores"], levels["loudest"]
    others = json.loads((RESULTS / "sr-x4.json").read_text())["scores"]
    named = {"bicubic": others["bicubic"][:1], "pixel loss": others["pixel"][:1]}
    named |= {level: [one] for level, one in found.items()}
    names, rows = score_rows(named)
    for row in rows:
        row.append(f"{loudest[row[0]]:.0%}" if row[0] in loudest else "")
    header = ["trained on", *(f"{name} {'up' if name in HIGHER_IS_BETTER else 'down'}" for name in names)]
    return markdown([*header, "four loudest filters"], rows)


def checks_table() -> str:
    found = json.loads((RESULTS / "checks.json").read_text())
    rows = [[name, f"{value:.2g}"] for name, value in found["differences"].items()]
    return markdown([f"{found['steps']} steps of super-resolution, fp32", "difference"], rows)


TABLES = {
    "checks": (checks_table, ("checks",)),
    "speed": (speed_table, ("speed",)),
    "objective": (objective_text, ("objective",)),
    "sr-x4": (partial(super_resolution_table, 4), ("sr-x4",)),
    "sr-x8": (partial(super_resolution_table, 8), ("sr-x8",)),
    "levels": (levels_table, ("levels", "sr-x4")),
}


def main() -> None:
    """Fills the tables into the pages of docs; those whose experiments were not run stay as they are."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text()
        for name, (table, needed) in TABLES.items():
            missing = [result for result in needed if not (RESULTS / f"{result}.json").exists()]
            if f"<!-- {name} -->" not in text:
                continue
            if missing:
                print(f"{page.name}: {name} stays as it is, not run: {', '.join(missing)}", file=sys.stderr)
                continue
            text = filled(text, name, table())
        page.write_text(text)


def filled(text: str, name: str, table: str) -> str:
    """The page with the table between its marks, `<!-- NAME -->` and `<!-- end -->`. ValueError without both."""
    head, mark, rest = text.partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    if not mark or not end:
        raise ValueError(f"{name}: expected the marks <!-- {name} --> and <!-- end --> in the page")
    return f"{head}{mark}{table}\n{end}{tail}"
