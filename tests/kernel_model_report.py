"""`python tests/kernel_model_report.py`: what warps execute and what a model makes of it. Counts, no measurements.

Writes bench/results/kernel_counts.csv and kernel_model.csv, and prints the latter.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from host.build import build
from host.worker import load

from bench import cubins, kernel_counts, kernel_model, tables


def main() -> None:
    if reason := cubins.missing():
        sys.exit(f"kernel model: {reason}")
    counts = kernel_counts.rows()
    tables.write(kernel_counts.TABLE, counts)
    table = kernel_model.lines(load(build("plain"), "gram"), counts)
    tables.write(kernel_model.TABLE, table)
    print("A model from counts of instructions, bytes and products; nothing is measured.")
    print(f"It assumes {kernel_model.ASSUMPTIONS}.")
    for line in [kernel_model.COLUMNS, *(row.values() for row in table)]:  # but for the last column, the assumptions
        print("{:62} {:16} {:9} {:6} {:>6} {:>6} {:>7} {:>9} {:>9} {:>9} {:>12} {:>8} {:>16}".format(*line))
    print(f"{len(counts)} rows in {kernel_counts.TABLE.name}, {len(table)} in {kernel_model.TABLE.name}")


if __name__ == "__main__":
    main()
