"""`make guard`: what fixed small calls do, counted and compared with bench/results/guard.csv; bench/README.md has more.

`make guard ACCEPT=1` makes the table of what it counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perceptual_ops._native import SWITCH, native

from . import callgrind, cubins, tables
from .guard_cases import CASES

TABLE = cubins.ROOT / "bench/results/guard.csv"
# The same on every processor that has AVX2, and one thread.
ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
}  # fmt: skip
COUNTS = ("operators", "own_operators", "allocations", "bytes")
INSTRUCTIONS = "instructions"
# What may change by as much without being named, either way; the numbers of calls must be equal.
TOLERANCE = {"bytes": 0.03, INSTRUCTIONS: 0.03}
MAKERS = {**dict.fromkeys(COUNTS, "torch"), INSTRUCTIONS: "compiler"}  # of another one, counts are not comparable
ACCEPT = "`make guard ACCEPT=1` makes this the baseline"

Row = Mapping[str, str]


def worker(arguments: Sequence[str], run: Callable[[Sequence[str], dict[str, str]], object], **settings: str) -> Any:
    """What bench/guard_counts.py finds in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != SWITCH} | ENVIRONMENT | settings
    environment["PYTHONPATH"] = str(cubins.ROOT)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "counts.json"
        run([sys.executable, "-m", "bench.guard_counts", str(file), *arguments], environment)
        return json.loads(file.read_text())


def run(command: Sequence[str], environment: dict[str, str]) -> None:
    subprocess.run(command, env=environment, check=True)


def counted() -> list[dict[str, str]]:
    """A row for every case, without instructions."""
    rows: dict[str, dict[str, str]] = {}
    for settings in ({}, {SWITCH: "0"}):
        made = worker([], run, **settings)
        makers = {maker: made[maker] for maker in ("torch", "compiler")}
        for name, counts in made["cases"].items():
            rows[name] = {
                "case": name,
                **{column: str(counts[column]) for column in COUNTS},
                INSTRUCTIONS: "",
                **makers,
            }
    return [rows[case.name] for case in CASES]


def with_instructions(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The rows, with the instructions of the compiled library in the cases that have them counted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        requests = str(callgrind.compile_requests(folder))
        made = worker(["--requests", requests], lambda command, settings: callgrind.run(command, folder, settings))
        profiles = [(folder / f"profile.{i}").read_text() for i, _ in enumerate(made["cases"], start=1)]
    library, code = native.file.resolve(), range(*made["code"])
    counts = [callgrind.instructions_of(profile, library, code) for profile in profiles]
    if not all(counts):
        raise RuntimeError(f"expected instructions of the library in every case, got {counts}")
    by_case = dict(zip(made["cases"], map(str, counts), strict=True))
    return [{**row, INSTRUCTIONS: by_case.get(row["case"], "")} for row in rows]


def changes(before: Sequence[Row], now: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """What is not as it was, a sentence each; empty cells are not compared."""
    old = {row["case"]: row for row in before}
    names = [row["case"] for row in now]
    found = [f"{name}: not in {TABLE.name}" for name in names if name not in old]
    found += [f"{name}: in {TABLE.name} alone" for name in old if name not in names]
    for row in now:
        for column in columns if row["case"] in old else ():
            was, is_now = old[row["case"]][column], row[column]
            if not was or not is_now:
                continue
            if abs(int(is_now) - int(was)) > TOLERANCE.get(column, 0) * int(was):
                ratio = f" ({int(is_now) / int(was):.3f} times)" if int(was) else ""
                found.append(f"{row['case']}: {column.replace('_', ' ')} were {was}, are {is_now}{ratio}")
    return found


def not_comparable(before: Sequence[Row], now: Sequence[Row], columns: Sequence[str]) -> str:
    """Why the columns are not to be compared; empty where they are."""
    (maker,) = {MAKERS[column] for column in columns}
    theirs, ours = ({release(row[maker]) for row in rows if row[columns[0]]} for rows in (before, now))
    if theirs == ours:
        return ""
    return (
        f"{TABLE.name} has {', '.join(columns)} of {maker} {'; '.join(theirs)}, here it is {'; '.join(ours) or 'none'}"
    )


def release(version: str) -> str:
    """Of torch what all its builds share ("2.13.0" of "2.13.0+cpu"), of a compiler its major version."""
    return re.sub(r"\+.*", "", version) if version[0].isdigit() else re.sub(r"(\d+)\..*", r"\1", version)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept", action="store_true", help="make the table of what is counted")
    options = parser.parse_args()
    if native.reason:
        sys.exit(native.reason)
    now, missing = counted(), callgrind.why_not()
    if missing:
        print(missing)
    else:
        now = with_instructions(now)
    if options.accept:
        if missing:
            sys.exit(f"{TABLE.name} is left as it is")
        tables.write(TABLE, now)
        return
    before, found = tables.read(TABLE), []
    for columns in (COUNTS, (INSTRUCTIONS,)):
        if reason := not_comparable(before, now, columns):
            print(f"not compared: {reason}")
        else:
            found += changes(before, now, columns)
    if found:
        sys.exit("\n".join([*dict.fromkeys(found), ACCEPT]))
    print(f"as in {TABLE.name}")


if __name__ == "__main__":
    main()
