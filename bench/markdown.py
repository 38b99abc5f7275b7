"""Tables of the pages from rows of the CSVs, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from .results import DISTURBED, Row

DTYPES = ("fp32", "bf16", "fp16")
SHORTER_SUMS = (
    "convolutions are nearly all of it; ours adds their products in fp32 in shorter sums, which round less and take a "
    "tenth longer"
)
WHOLE_BATCH = "AlexNet's convolutions are faster on more images at a time: as one chunk ours takes the rival's time"
CHUNKS = "chunks of four images give deep layers less to do: as one chunk ours takes about the rival's time"
NOT_FOUND = "not known: with one chunk and with in-place ReLUs, which ours switches off, it is the same"
NO_GRADIENT = "without a gradient both run the same convolutions once and keep nothing"
ONE_PRODUCT = "a Gram matrix alone is one matrix product, the same in both"
MORE_REGIONS = "each of the shorter sums of fp32 is a parallel region, at whose end all threads wait for a delayed one"
THREE_IMAGES = (
    "the default chunk in 16 bits is three such images, beside all maps of the network; `chunk_size=2` does not raise "
    "the step's peak"
)
ALL_LAYERS = "one call takes all layers: their Gram matrices and those' gradients are there at once"
# Why a rival takes less time than ours, by suite, and parts of the case and of the variant. A row without a reason is
# an error of the report: find out why, or mend it.
REASONS = {
    **{("steps", "sr", f"{name} fp32"): SHORTER_SUMS for name in ("eager", "channels_last", "compiled")},
    ("metrics", "lpips-vgg", "compiled fp32"): SHORTER_SUMS,
    ("metrics", "lpips-alex", "compiled fp32"): SHORTER_SUMS,
    ("metrics", "lpips-alex", "lpips fp32"): WHOLE_BATCH,  # in plain PyTorch
    ("metrics", "forward", "compiled bf16"): NO_GRADIENT,
    ("modules", "convnext-s", "eager fp32"): CHUNKS,
    ("modules", "resnet-50 8x224x224", "eager fp32"): NOT_FOUND,
    ("operators", "1x64x64", "compiled fp32"): "maps of some kilobytes: what is timed are the calls",
    ("operators", "gram fwd ", "eager fp32"): ONE_PRODUCT,
    ("operators", "gram fwd ", "compiled fp32"): ONE_PRODUCT,
    **{("loss busy", "4x128x128", f"{name} fp32"): MORE_REGIONS for name in ("channels_last", "compiled")},
    **{("metrics busy", "", f"{name} fp32"): MORE_REGIONS for name in ("channels_last", "compiled", "torchmetrics")},
}
# Why a rival takes less memory, in the same way.
MEMORY_REASONS = {
    ("steps", "sr 8x192x192", "compiled bf16"): THREE_IMAGES,
    ("operators", "1x64x64", "compiled fp32"): ALL_LAYERS,
}


class Unexplained(ValueError):
    """A row in which a rival takes less has no reason in `REASONS` or `MEMORY_REASONS`."""


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
    """A table for each dtype: ours, its memory and the first rival's, each rival and how many times longer it takes."""
    parts = []
    for dtype in DTYPES:
        timed_rows = [row for row in rows if row["median_ms"]]
        cases = {
            case: of for case, of in by_case(timed_rows, dtype).items() if any(name.startswith("ours") for name in of)
        }
        variants = rivals_first({name for of in cases.values() for name in of} - {"ours"}, rows)
        lines = [
            [case.removesuffix(f" {dtype}"), timed(of, "ours"), share_of_memory(of), *(timed(of, x) for x in variants)]
            for case, of in cases.items()
        ]
        heading = [dtype, "ours", "memory", *variants]
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
    """The time of a variant, how many times that is of ours, and the memory of other settings of ours."""
    if name not in of or not of[name]["median_ms"]:
        return ""
    row, ours = of[name], of.get("ours")
    parts = [time(float(row["median_ms"]))]
    if name != "ours" and ours and ours["median_ms"]:
        parts.append(f"({ratio(row, ours):.2f}x)")
    if name.startswith("ours,") and row["allocated_mb"]:
        parts.append(f"in {memory(float(row['allocated_mb']))}")
    return " ".join(parts)


def share_of_memory(of: dict[str, Row]) -> str:
    """Such as "51 MB, 1/11 of 561 MB", the first rival's."""
    ours = float(of["ours"]["allocated_mb"] or 0) if "ours" in of else 0
    theirs = next((float(row["allocated_mb"] or 0) for name, row in of.items() if not name.startswith("ours")), 0)
    if not ours:
        return ""
    return f"{memory(ours)}, 1/{theirs / ours:.2g} of {memory(theirs)}" if theirs else memory(ours)


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
    keys = ("suite", "form", "case", "variant", "dtype")
    idle = {tuple(row[key] for key in keys): row for row in rows if row["busy"] == "0"}
    lines = []
    for row in rows:
        before = idle.get(tuple(row[key] for key in keys))
        if row["busy"] != "0" and is_rival(row) and row["ratio"] and before and before["ratio"]:
            name = f"{row['variant']} {row['dtype']}"
            lines.append([f"{row['suite']} {row['case']}", name, *map(spread, (before, row))])
    heading = ["case", "rival", "times ours, idle [20-80 %]", "on a busy machine [20-80 %]"]
    return table(heading, lines, words=(0, 1))


def is_rival(row: Row) -> bool:
    return not row["variant"].startswith(("ours", "without", "autograd"))


def spread(row: Row) -> str:
    low, middle, high = (f"{float(row[name]):.2f}" for name in ("ratio_p20", "ratio", "ratio_p80"))
    return f"{middle} [{low}-{high}]"


def slower(rows: Sequence[Row]) -> Iterator[tuple[Row, float]]:
    """The rows of rivals that take less time than ours in the same dtype, and their ratio."""
    for row, ours in beside_ours(rows):
        if row["median_ms"] and ours["median_ms"] and ratio(row, ours) < 1:
            yield row, ratio(row, ours)


def larger(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """The rows of rivals that take less memory than ours in the same dtype, and ours."""
    for row, ours in beside_ours(rows):
        if row["allocated_mb"] and ours["allocated_mb"] and float(row["allocated_mb"]) < float(ours["allocated_mb"]):
            yield row, ours


def beside_ours(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Each row of a rival, and ours of the same run and dtype."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in ("suite", "form", "busy")), []).append(row)
    for group in groups.values():
        for dtype in DTYPES:
            for of in by_case(group, dtype).values():
                yield from ((row, of["ours"]) for row in of.values() if "ours" in of and is_rival(row))


def not_fastest(rows: Sequence[Row]) -> str:
    lines = [[*named(row), f"{found:.2f}", level(row) or reason(row, REASONS)] for row, found in slower(rows)]
    return table(["case", "faster", "its time over ours", "why"], lines, words=(0, 1, 3)) if lines else "None."


def not_least(rows: Sequence[Row]) -> str:
    lines = [
        [*named(row), *(memory(float(x["allocated_mb"])) for x in (row, ours)), reason(row, MEMORY_REASONS)]
        for row, ours in larger(rows)
    ]
    heading = ["case", "smaller", "its memory", "ours", "why"]
    return table(heading, lines, words=(0, 1, 4)) if lines else "No rival takes less memory in any row."


def named(row: Row) -> list[str]:
    """The case of a row and how it was run, and its variant."""
    how = [", in plain PyTorch"] * (row["form"] == "plain") + [", on a busy machine"] * (row["busy"] != "0")
    return [f"{row['suite']} {row['case']}{''.join(how)}", f"{row['variant']} {row['dtype']}"]


def level(row: Row) -> str:
    """That a time is level with ours, where the middle of the pairs is on both sides of 1; else empty."""
    return f"level: {spread(row)} over the pairs" if float(row["ratio_p80"] or 0) >= 1 else ""


def reason(row: Row, reasons: Mapping[tuple[str, str, str], str]) -> str:
    """Why a rival takes less than ours."""
    how, name = row["suite"] + " busy" * (row["busy"] != "0"), f"{row['variant']} {row['dtype']}"
    for (suite, case, variant), why in reasons.items():
        if how == suite and case in row["case"] and variant == name:
            return why
    raise Unexplained(f"bench/markdown.py: expected why {name} takes less than ours in {how} {row['case']}")


def out_of_memory(rows: Sequence[Row]) -> str:
    """The largest that fits, by limit: rivals as they come, then ours."""
    limits = sorted({int(row["limit_mb"]) for row in rows})
    lines: dict[tuple[str, str, str], dict[int, str]] = {}
    searches = [*dict.fromkeys((row["loss"], row["axis"]) for row in rows)]
    for row in sorted(rows, key=lambda row: (searches.index((row["loss"], row["axis"])), not is_rival(row))):
        key = row["loss"], row["axis"], row["variant"]
        lines.setdefault(key, {})[int(row["limit_mb"])] = f"{'at least ' if row['at_cap'] else ''}{row['largest']}"
    units = {"batch": "batch of 256x256", "side": "side in pixels"}
    heading = ["loss", "largest", "implementation", *(memory(limit) for limit in limits)]
    cells = (
        [loss, units[axis], variant, *(of.get(limit, "") for limit in limits)]
        for (loss, axis, variant), of in lines.items()
    )
    return table(heading, cells, words=(0, 1, 2))


def precision(rows: Sequence[Row]) -> str:
    """How far losses in fp32, fp16 and bf16 are from fp64, and the cosine of their gradients."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row["loss"], row["images"]), {})[row["dtype"]] = row
    dtypes = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    heading = [
        "loss",
        "images",
        *(f"error of the value, {x}" for x in dtypes),
        *(f"cosine, {x}" for x in [*dtypes][1:]),
    ]
    lines = []
    for key, of in found.items():
        each = [of[name] for name in dtypes.values()]
        values = [f"{float(x['value_worst']):.1e} ({float(x['value_median']):.1e})" for x in each]
        cosines = [f"{float(x['cosine_worst']):.4f} ({float(x['cosine_median']):.4f})" for x in each[1:]]
        lines.append([*key, *values, *cosines])
    return table(heading, lines, words=(0, 1))


def on_axis(rows: Sequence[Row], axis: str) -> dict[str, list[tuple[float, Row]]]:
    """Rows in fp32 by variant with their batch or side: of 256 x 256 pixels, or of one square image; two at least.

    Args:
        axis: "batch" or "side".
    """
    found: dict[str, list[tuple[float, Row]]] = {}
    for row in rows:
        size = re.search(r"(?:^| )(\d+)x(\d+)x(\d+)$", row["case"])
        if not size or "forward" in row["case"] or row["dtype"] != "fp32" or not row["median_ms"] or row["busy"] != "0":
            continue
        batch, height, width = map(int, size.groups())
        if height == width == 256 if axis == "batch" else batch == 1 and height == width:
            found.setdefault(row["variant"], []).append((float(batch if axis == "batch" else height), row))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items() if len(points) > 1}
