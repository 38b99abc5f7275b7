"""Launches of a loss's call: as bench/results/launches.csv says, by what each operator of csrc launches."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import launches, tables
from bench.cubins import ROOT


@pytest.mark.usefixtures("library")
def test_the_table_is_that_of_the_engine() -> None:
    rows, written = launches.rows(), tables.read(launches.TABLE)
    news = [row for row in rows if row not in written]
    assert rows == written, f"run `make launches` and commit its table; the news: {news}"


# ---- what operators launch, as csrc has it ----

HEAD = re.compile(r"^[\w:].*?(\w+)\(", re.MULTILINE)  # functions begin and end at the margin
END = re.compile(r"^\}", re.MULTILINE)
IMPLEMENTED = re.compile(r'm\.impl\("(\w+)", TORCH_BOX\(&(\w+)\)\)')


def bodies(path: Path) -> dict[str, list[str]]:
    """The words of each function and method of a file, by name."""
    found: dict[str, list[str]] = {}
    for text in END.split(path.read_text()):
        if heads := [*HEAD.finditer(text)]:
            name, body = heads[-1][1], text[heads[-1].end() :]
            found[name] = found.get(name, []) + re.findall(r"\w+", body)
    return found


def reached(name: str, within: dict[str, list[str]], seen: set[str]) -> set[str]:
    """What a function launches, and those that it calls."""
    seen.add(name)
    found = {word for word in within[name] if word.startswith("launch_") or word == launches.ZEROS}
    for word in {*within[name]} & within.keys() - seen:
        found |= reached(word, within, seen)
    return found


def of_csrc() -> dict[str, set[str]]:
    """What each operator launches, by name."""
    found = {}
    for path in sorted((ROOT / "csrc").glob("*/*_cuda.cpp")):
        within = bodies(path)
        for operator, function in IMPLEMENTED.findall(path.read_text()):
            found[operator] = reached(function, within, set())
    return found


def test_operators_launch_what_csrc_has() -> None:
    found = of_csrc()
    assert all(found.values()), "every operator launches something"
    assert {name: set(known) for name, known in launches.OPERATORS.items()} == {
        name: found[name] for name in launches.OPERATORS
    }
