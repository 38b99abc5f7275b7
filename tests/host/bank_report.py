"""`python tests/host/bank_report.py`: bank conflicts of every pattern of accesses to shared memory, counted on the CPU.

Writes bench/results/kernel_bank_conflicts.csv and prints what conflicts.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import tables
from host.bank_conflicts import TABLE, launches, patterns, rows
from host.build import ROOT


def main() -> None:
    table = rows(patterns(launches()))
    tables.write(TABLE, table)
    for row in table:
        if row["worst_ways"] != "1":
            print("{kernel}: {access} of {bytes} bytes, {worst_ways} ways ({mean_ways}): {file}: {code}".format(**row))
    print(f"{len(table)} rows in {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
