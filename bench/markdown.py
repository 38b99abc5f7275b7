"""Tables of the pages from rows of the CSVs, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence

from .results import DISTURBED, Row

DTYPES = ("fp32", "bf16", "fp16")
# Why a rival takes less time than ours, by suite, and parts of the case and of the variant. A row without a reason is
# an error of the report: find out why, or mend it.
REASONS = {
    ("modules", "", "eager fp32"): "one image at a time gives convolutions little to do, which is the price of its "
    "memory; a larger `chunk_size` takes eager's time",
    ("modules", "lpips-squeeze", "lpips fp32"): "as above, with a larger `chunk_size` ours is faster",
    ("metrics", "forward", "compiled bf16"): "without a gradient both run the same convolutions once and keep nothing",
    ("operators", "1x64x64", "compiled fp32"): "maps of some kilobytes: what is timed are the calls",
    ("operators", "gram", "eager fp32"): "a Gram matrix alone is one matrix product, the same in both",
    ("operators", "gram", "compiled fp32"): "a Gram matrix alone is one matrix product, the same in both",
}


class Unexplained(ValueError):
    """A row in which ours is not the fastest has no reason in `REASONS`."""


def table(heading: Sequence[str], lines: Iterable[Sequence[str]], words: Container[int] = (0,)) -> str:
    """`words`: columns of words; numbers are at the right."""
    rule = ["---" if column in words else "---:" for column in range(len(heading))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, rule, *lines))


def caption(rows: Sequence[Row], command: str) -> str:
    """What a table is true of."""
    every = {
        name: ", ".join(dict.fromkeys(row[name] for row in rows)) for name in ("device", "torch", "form", "commit")
    }
    dates = ", ".join(sorted({row["date"][:10] for row in rows}))
    plain = ", in plain PyTorch" if every["form"] == "plain" else ""
    others = max((float(row.get("others_cpu") or 0) for row in rows if row.get("busy") == "0"), default=0.0)
    beside = f"; other processes took up to {others:.0%} of the CPU" if others > DISTURBED else ""
    return f"{every['device']}; torch {every['torch']}{plain}; commit {every['commit']}; {dates}; `{command}`{beside}."


def time(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.3g} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"


def memory(megabytes: float) -> str:
    return f"{megabytes / 1e3:.3g} GB" if megabytes >= 1000 else f"{megabytes:.3g} MB"


def ratio(row: Row, ours: Row) -> float:
    """Of a rival's time to ours: of pairs, or of medians where a row of before has no pairs."""
    return float(row["ratio"] or float(row["median_ms"]) / float(ours["median_ms"]))


def by_case(rows: Iterable[Row], dtype: str) -> dict[str, dict[str, Row]]:
    """Rows of a dtype by case and variant, with figures."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["dtype"] == dtype and row["status"] == "passed":
            found.setdefault(row["case"], {})[row["variant"]] = row
    return found


def comparison(rows: Sequence[Row]) -> str:
    """A table for each dtype: ours, each rival and how many times longer it takes, memory of ours and the first's."""
    parts = []
    for dtype in DTYPES:
        cases = {case: of for case, of in by_case(rows, dtype).items() if "ours" in of}
        variants = rivals_first({name for of in cases.values() for name in of} - {"ours"}, rows)
        lines = [
            [case.removesuffix(f" {dtype}"), *(timed(of, name) for name in ("ours", *variants)), share_of_memory(of)]
            for case, of in cases.items()
        ]
        heading = [dtype, "ours", *variants, "memory"]
        if not any(line[-1] for line in lines):
            heading, lines = heading[:-1], [line[:-1] for line in lines]
        if lines:
            parts.append(table(heading, lines))
    return "\n\n".join(parts)


def rivals_first(variants: Container[str], rows: Iterable[Row]) -> list[str]:
    """Those of rivals as they come, then those of ours by their numbers."""
    found = [name for name in dict.fromkeys(row["variant"] for row in rows) if name in variants]
    return sorted(
        found, key=lambda name: [int(x) for x in re.findall(r"\d+", name)] if name.startswith("ours") else [-1]
    )


def timed(of: dict[str, Row], name: str) -> str:
    """The time of a variant, and of a rival how many times that is of ours."""
    if name not in of or not of[name]["median_ms"]:
        return ""
    own = time(float(of[name]["median_ms"]))
    return own if name == "ours" or not of["ours"]["median_ms"] else f"{own} ({ratio(of[name], of['ours']):.2f}x)"


def share_of_memory(of: dict[str, Row]) -> str:
    """Such as "51 MB, 1/11 of eager's 561 MB"."""
    ours = float(of["ours"]["allocated_mb"] or 0)
    rivals = [(name, float(row["allocated_mb"] or 0)) for name, row in of.items() if not name.startswith("ours")]
    if not ours:
        return ""
    if not rivals or not rivals[0][1]:
        return memory(ours)
    name, theirs = rivals[0]
    return f"{memory(ours)}, 1/{theirs / ours:.2g} of {name}'s {memory(theirs)}"


def steps(rows: Sequence[Row]) -> str:
    """What share of a step the loss takes: 1 less the step without it over the whole step."""
    lines = []
    for dtype in DTYPES:
        for case, of in by_case(rows, dtype).items():
            bare = by_case(rows, "fp32").get(case, {}).get("without the loss")
            for name, row in of.items():
                if bare and name != "without the loss":
                    step, rest = float(row["median_ms"]), float(bare["median_ms"])
                    found = memory(float(row["allocated_mb"])) if row["allocated_mb"] else ""
                    lines.append([case, f"{name} {dtype}", time(step), time(rest), f"{1 - rest / step:.0%}", found])
    return table(["step", "loss by", "time", "without the loss", "share of the loss", "memory"], lines, words=(0, 1))


def busy(rows: Sequence[Row]) -> str:
    """Ratios on an idle machine, and beside processes that take the CPU."""
    idle = {(row["case"], row["variant"], row["dtype"]): row for row in rows if row["busy"] == "0"}
    lines = []
    for row in rows:
        key = row["case"], row["variant"], row["dtype"]
        if row["busy"] != "0" and row["ratio"] and row["variant"] != "ours" and key in idle and idle[key]["ratio"]:
            lines.append(
                [f"{row['suite']} {row['case']}", f"{row['variant']} {row['dtype']}", *map(spread, (idle[key], row))]
            )
    return table(
        ["case", "rival", "times ours, idle [20-80 %]", "beside busy processes [20-80 %]"], lines, words=(0, 1)
    )


def spread(row: Row) -> str:
    low, middle, high = (f"{float(row[name]):.2f}" for name in ("ratio_p20", "ratio", "ratio_p80"))
    return f"{middle} [{low}-{high}]"


def slower(rows: Sequence[Row]) -> Iterator[tuple[Row, float]]:
    """The rows of rivals that take less time than ours in the same dtype, and their ratio."""
    for dtype in DTYPES:
        for of in by_case([row for row in rows if row["busy"] == "0"], dtype).values():
            ours = of.get("ours")
            for name, row in of.items():
                is_rival = not name.startswith(("ours", "without", "autograd"))
                if ours and is_rival and row["median_ms"] and ours["median_ms"] and ratio(row, ours) < 1:
                    yield row, ratio(row, ours)


def not_fastest(rows: Sequence[Row]) -> str:
    lines = []
    for suite in dict.fromkeys(row["suite"] for row in rows):
        for row, found in slower([row for row in rows if row["suite"] == suite]):
            name = f"{row['variant']} {row['dtype']}"
            lines.append([f"{suite} {row['case']}", name, f"{found:.2f}", reason(row, name)])
    return table(["case", "faster", "its time over ours", "why"], lines, words=(0, 1, 3))


def reason(row: Row, name: str) -> str:
    for (suite, case, variant), why in REASONS.items():
        if row["suite"] == suite and case in row["case"] and variant == name:
            return why
    raise Unexplained(
        f"bench/markdown.py, REASONS: expected why {name} is faster than ours in {row['suite']} {row['case']}"
    )


def out_of_memory(rows: Sequence[Row]) -> str:
    """The largest that fits, by limit."""
    limits = sorted({int(row["limit_mb"]) for row in rows})
    lines: dict[tuple[str, str, str], dict[int, str]] = {}
    for row in rows:
        key = row["loss"], row["axis"], row["variant"]
        lines.setdefault(key, {})[int(row["limit_mb"])] = f"{'at least ' if row['at_cap'] else ''}{row['largest']}"
    heading = ["loss", "largest", "by", *(memory(limit) for limit in limits)]
    cells = ([*key, *(of.get(limit, "") for limit in limits)] for key, of in lines.items())
    return table(heading, cells, words=(0, 1, 2))


def precision(rows: Sequence[Row]) -> str:
    """How far losses in fp32, fp16 and bf16 are from fp64, and the cosine of their gradients."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row["loss"], row["images"]), {})[row["dtype"]] = row
    dtypes = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    heading = ["loss", "images", *(f"value off, {x}" for x in dtypes), *(f"cosine, {x}" for x in [*dtypes][1:])]
    lines = []
    for key, of in found.items():
        each = [of[name] for name in dtypes.values()]
        values = [f"{float(x['value_worst']):.1e} ({float(x['value_median']):.1e})" for x in each]
        cosines = [f"{float(x['cosine_worst']):.4f} ({float(x['cosine_median']):.4f})" for x in each[1:]]
        lines.append([*key, *values, *cosines])
    return table(heading, lines, words=(0, 1))


def scaling(rows: Sequence[Row], axis: str, value: str) -> dict[str, list[tuple[float, float]]]:
    """Points (batch, or side) of each variant in fp32, from cases of 256 x 256 pixels, or of one square image.

    Args:
        axis: "batch" or "side".
        value: The column, such as "median_ms".
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        size = re.search(r"(?:^| )(\d+)x(\d+)x(\d+)$", row["case"])
        if not size or "forward" in row["case"] or row["dtype"] != "fp32" or not row[value] or row["busy"] != "0":
            continue
        batch, height, width = map(int, size.groups())
        is_meant = height == width == 256 if axis == "batch" else batch == 1 and height == width
        if is_meant:
            found.setdefault(row["variant"], []).append(
                (float(batch if axis == "batch" else height), float(row[value]))
            )
    return {name: sorted(points) for name, points in found.items() if len(points) > 1}
