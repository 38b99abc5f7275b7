"""`python tests/host/traffic_report.py`: what every launcher moves and multiplies over what it must, for VGG16's taps.

Prints the table, writes it to bench/results/kernel_traffic.csv, and fails where a launcher is beyond its row's limit.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from host.build import ROOT
from host.traffic import measurements
from host.traffic_table import ROWS

TABLE = ROOT / "bench" / "results" / "kernel_traffic.csv"
COLUMNS = ["launcher", "taps", "dtype", "layout", "images", "needed_bytes", "traffic", "products"]


def main() -> int:
    results = [result for measurement in measurements(ROWS) for result in measurement.results()]
    lines = [
        [*result.name.split(), str(result.needed), f"{result.traffic:.4f}", f"{result.products:.4f}"]
        for result in results
    ]
    for line in [COLUMNS, *lines]:
        print("{:26} {:8} {:9} {:6} {:9} {:>13} {:>8} {:>8}".format(*line))
    with TABLE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *lines])
    complaints = [sentence for result in results for sentence in result.complaints()]
    print(*complaints, f"{len(lines)} rows in {TABLE.relative_to(ROOT)}", sep="\n")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
