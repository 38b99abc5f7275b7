"""The tables in bench/results that the library's machine code makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import cubins, tables


def assert_committed(made: list[dict[str, str]], path: Path, command: str) -> None:
    """That a table is that of the library, of the architectures that it is built for.

    Skips where another compiler made the library: it may choose other instructions and registers.
    """
    written, compiler = tables.read(path), cubins.compiler()
    (theirs,) = {row["compiler"] for row in written}
    if theirs != compiler:
        pytest.skip(
            f"{path.name} is of nvcc {theirs}, the library of {compiler}: `{command}` makes that compiler's table"
        )
    architectures = set(map(str, cubins.architectures()))
    written = [row for row in written if row["architecture"] in architectures]
    news = [row for row in made if row not in written]
    assert made == written, f"run `{command}` and commit its tables, if the change is worth it; the news: {news}"
