"""Bank conflicts of the kernels: those of the committed table, and none beyond what is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from host.bank_conflicts import (
    TABLE,
    Pattern,
    Patterns,
    Place,
    launches,
    of_element,
    patterns,
    patterns_of_each,
    rows,
)
from host.primitives.launch import launch, numbers
from host.worker import Launch

from bench import kernel_resources, tables

# Ways of what conflicts all the same, by file and code, and why.
TILES = "csrc/lpips/tiles.cuh"
KNOWN = {
    # Two numbers of a pixel of an NCHW map. Machine code stores them by 8 bytes, without a conflict; loads of one of
    # them conflict where pixels come in no packs. Were they aligned to 8 bytes, fp32's loop of the gradient would have
    # 353 instructions in place of 311.
    (
        TILES,
        "if (which < 2) shared.lengths[which][number] = Length<Acc>::of(finished_sum(which, number), run.norm);",
    ): 2,
    (TILES, "const Length<Acc> of_x = shared.lengths[0][number], of_y = shared.lengths[1][number];"): 2,
}


@pytest.fixture(scope="module")
def found() -> Patterns:
    return patterns(launches())


def test_table_is_of_these_kernels(found: Patterns) -> None:
    made, written = rows(found), tables.read(TABLE)
    news = [row for row in made if row not in written]
    assert made == written, f"run `make bank-conflicts` and commit its table, if the change is worth it; news: {news}"


def test_no_pattern_conflicts(found: Patterns) -> None:
    conflicts: dict[tuple[str, str], int] = {}
    for place, pattern in found.items():
        if pattern.worst > 1:
            key = place.file, place.code
            conflicts[key] = max(pattern.worst, conflicts.get(key, 0))
    news = [f"{file}: {ways} ways: {code}" for (file, code), ways in (conflicts.items() - KNOWN.items())]
    assert not news, "\n".join(["shared memory conflicts over its banks:", *sorted(news)])
    assert conflicts == KNOWN, "what is known no longer conflicts"


def test_every_kernel_with_shared_memory_is_seen(found: Patterns) -> None:
    resources = tables.read(kernel_resources.TABLE)
    shared = {of_element(row["kernel"]) for row in resources if row["architecture"] == "80" and row["shared"] != "0"}
    assert {place.kernel for place in found} == {
        kernel for kernel in shared if not kernel.endswith(("<double>", "<__half>"))
    }


# --- the rule ---------------------------------------------------------------------------------------------------------


def strided(name: str, stride: int) -> Launch:
    return launch(name, np.full(4, stride, np.uint32), 32, shared_bytes=32 * 256)


def ways(name: str, *strides: int) -> list[dict[str, int]]:
    """Of a primitive's accesses, by kind."""
    of_each = patterns_of_each(strided(name, stride) for stride in strides)
    assert all(pattern.accesses == 1 for found in of_each for pattern in found.values())
    return [{place.access: pattern.worst for place, pattern in found.items()} for found in of_each]


@pytest.mark.parametrize(
    ("width", "by_stride"),
    [
        (2, {0: 1, 2: 1, 4: 1, 8: 2, 128: 32}),
        (4, {0: 1, 4: 1, 8: 2, 12: 1, 16: 4, 128: 32, 132: 1, 144: 4}),
        (8, {0: 1, 8: 1, 16: 2, 24: 1, 128: 16, 136: 1, 144: 2}),
        (16, {0: 1, 16: 1, 32: 2, 48: 1, 64: 4, 128: 8, 144: 1, 160: 2, 224: 2, 240: 1}),
    ],
)
def test_ways_by_hand(width: int, by_stride: dict[int, int]) -> None:
    """32 lanes side by side, halves of them, quarters of them; words of one bank are 128 bytes apart."""
    expected = [{"load": number, "store": number} for number in by_stride.values()]
    assert ways(f"strided {width} bytes", *by_stride) == expected


def test_rows_by_hand() -> None:
    """Eight rows of 16 bytes at a time."""
    by_stride = {16: 1, 32: 2, 128: 8, 144: 1, 160: 2}
    assert ways("strided rows", *by_stride) == [
        {"cp.async": number, "ldmatrix": number} for number in by_stride.values()
    ]


def test_phases_of_a_wide_access_are_no_conflict() -> None:
    expected = Pattern(accesses=1, phases=4, wavefronts=4, worst=1, one_address=False)
    assert list(patterns([strided("strided 16 bytes", 16)]).values()) == [expected] * 2


def test_lanes_are_brought_together_between_barriers() -> None:
    """Two warps, four times each, in an order drawn at random."""
    given = replace(launch("buffer reuse", numbers(64), 64, threads=64), orders=1)
    assert {place.access: pattern for place, pattern in patterns([given]).items()} == {
        access: Pattern(accesses=8, phases=8, wavefronts=8, worst=1, one_address=False) for access in ("load", "store")
    }


def test_a_table_leaves_out_what_cannot_conflict() -> None:
    place = Place("kernel", "load", 4, "file", "code")
    assert rows({place: Pattern(2, 2, 2, 1, True)}) == []
    (row,) = rows({place: Pattern(2, 2, 5, 4, False)})
    assert (row["accesses"], row["worst_ways"], row["mean_ways"]) == ("2", "4", "2.50")
