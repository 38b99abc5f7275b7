"""What warps execute, counted in machine code: as bench/results/kernel_counts.csv says, and slower code is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_tables import assert_committed
from machine_code import code_of

from bench import cubins, kernel_counts
from bench.cubins import Resources
from bench.kernel_counts import Pipeline, Stage, Stream
from bench.paths import Paths


@pytest.fixture(scope="module")
def table() -> list[dict[str, str]]:
    if reason := cubins.missing():
        pytest.skip(reason)
    return kernel_counts.rows()


def test_the_table_is_that_of_the_library(table: list[dict[str, str]]) -> None:
    assert_committed(table, kernel_counts.TABLE, "make kernel-model")


def test_every_row_is_of_a_kernel(table: list[dict[str, str]]) -> None:
    used = [kernel_counts.row_of(line["kernel"]) for line in table]
    assert [row.kernels for row in kernel_counts.ROWS if row not in used] == []


# --- what the tests see -----------------------------------------------------------------------------------------------


def pipeline(
    loads: str,
    kind: str = "",
    copy: list[str] | None = None,
    products: int = 2,
    factor: list[str] | None = None,
) -> list[str]:
    """A main loop: two panels of two copies each, four products in rounds of `products`; code of one layout."""
    layout = kind + loads[-4:]
    copy = copy or ["IMAD.WIDE R2, R4, R5, R6", "LDGSTS.E.128 [R20], [R2.64]"]
    return [
        f"{layout}stage:",
        "LDGDEPBAR",
        f"{layout}panel:",
        "MOV R4, R9",
        *(factor or []),
        f"{layout}copy:",
        *copy,
        f"@P0 BRA {layout}copy",
        f"@P1 BRA {layout}panel",
        "BAR.SYNC.DEFER_BLOCKING 0x0",
        f"{layout}depth:",
        f"{loads}.4 R16, [R20]",
        *["HMMA.16816.F32.BF16 R8, R16, R6, R8", "FADD R3, R3, R8"] * products,
        f"@P2 BRA {layout}depth",
        f"@P3 BRA {layout}stage",
        "STG.E.128 [R2.64], R4",
        "EXIT",
    ]


def kernel(**changes) -> list[str]:
    plain = pipeline("LDSM.16.M88", **changes)
    return ["S2R R1, SR_TID.X", "@P6 BRA .M88stage", *pipeline("LDSM.16.MT88"), *plain]


ROW = Pipeline(
    "kernel",
    (Stage({"HMMA": 4, "LDGSTS": 4}, {"LDGSTS": (2, 2), "HMMA": (2,)}),),
    after={"STG.128": 1},
    turned="nhwc",
)
RESOURCES = Resources("gram_sum_kernel<float>", 90, 256, 128, 1024, 0, 0)


def counted(lines: list[str], row: Pipeline | Stream = ROW) -> dict[str, dict[str, str]]:
    parts = row.parts(Paths(code_of(*lines)))
    return {part: kernel_counts.line(RESOURCES, part, counts, row) for part, counts in parts}


def test_a_main_loop() -> None:
    stage = counted(kernel())["nchw stage"]
    # Four copies of three, two panels around them, two barriers, two depths of six, and the end.
    expected = {"instructions": "31", "HMMA": "4", "LDGSTS": "4", "LDSM": "2", "float": "4", "integer": "4"}
    expected |= {"branch": "9", "barrier": "2", "other": "2", "bytes": "64", "per_hmma": "7.75", "per_16_bytes": "7.8"}
    # By registers two blocks, by the Gram's dynamic shared memory too; each thread has two stages of four copies.
    expected |= {"blocks": "2", "in_flight": str(2 * 256 * 2 * 64)}
    assert {name: stage[name] for name in expected} == expected
    assert [*counted(kernel())] == [
        f"{one} {part}" for one in ("nhwc", "nchw") for part in ("before", "stage", "after")
    ]


def test_pipelines_that_a_block_begins_one_after_the_other() -> None:
    turned, plain = pipeline("LDSM.16.MT88")[:-1], pipeline("LDSM.16.M88")[:-1]
    lines = ["again:", "@P5 EXIT", "@P6 BRA .M88stage", *turned, "BRA again", *plain, "BRA again", "EXIT"]
    now, before = counted(lines), counted(kernel())
    assert [now[f"{layout} stage"] for layout in ("nchw", "nhwc")] == [
        before[f"{layout} stage"] for layout in ("nchw", "nhwc")
    ]
    # The store, the way back and the end.
    assert int(now["nchw after"]["instructions"]) == int(before["nchw after"]["instructions"]) + 1


DIVISION = ["I2F.RP R7, R6", "MUFU.RCP R7, R7", "F2I.FTZ.U32.TRUNC.NTZ R7, R7", "IMAD.HI.U32 R7, R7, R5, RZ"]


@pytest.mark.parametrize(
    ("slower", "instructions"),
    [
        (kernel(factor=DIVISION), 31 + 2 * 4),  # a division for each panel
        (kernel(copy=["LDG.E R9, [R4.64]", "IMAD.WIDE R2, R9, R5, R6", "LDGSTS.E.128 [R20], [R2.64]"]), 31 + 4),
    ],
)
def test_slower_code_counts_more(slower: list[str], instructions: int) -> None:
    now, before = counted(slower), counted(kernel())
    assert now["nchw stage"]["instructions"] == str(instructions)
    assert now["nhwc stage"] == before["nhwc stage"]


def test_a_lost_unroll_is_found() -> None:
    """One product a round: no way has the work of the row, and a row of more rounds counts more."""
    slower = kernel(products=1)
    with pytest.raises(ValueError, match=r"no way with \{'HMMA': 4, 'LDGSTS': 4\}; there are .*'HMMA': 2, 'LDGSTS': 4"):
        counted(slower)
    (stage,) = ROW.stages
    row = replace(ROW, stages=(replace(stage, trips={**stage.trips, "HMMA": (4,)}),))
    both = [*slower[:2], *pipeline("LDSM.16.MT88", products=1), *pipeline("LDSM.16.M88", products=1)]
    assert counted(both, row)["nchw stage"]["instructions"] == str(31 + 2 * 2)


STREAM = [
    "@P0 BRA end",
    "@P1 BRA single",
    "@P2 BRA without",
    "LDG.E.128 R4, [R2.64]",
    "without:",
    "LDG.E.128 R8, [R2.64+0x10]",
    "FADD R3, R3, R8",
    "STG.E.128 [R2.64], R4",
    "BRA end",
    "single:",
    "LDG.E.U16 R4, [R2.64]",
    "STG.E.U16 [R2.64], R4",
    "@P3 BRA single",
    "end:",
    "EXIT",
]


def test_a_kernel_without_a_main_loop() -> None:
    """With as many accesses of 16 bytes as any way has, or with those that are wanted."""
    paths = Paths(code_of(*STREAM))
    assert sum(paths.through({"LDG.128": None, "STG.128": None}, {}).values()) == 9
    assert sum(paths.through({"LDG.128": 1, "STG.128": 1}, {}).values()) == 8
    assert sum(paths.through({"STG.128": 0}, {}).values()) == 2


def test_main_loops_of_several_kinds() -> None:
    """Of stages with four copies, and of narrow ones with twelve: two of each, or a sentence."""
    copies = ["LDGSTS.E.128 [R20], [R2.64]"] * 3
    narrow = replace(ROW.stages[0], work={"HMMA": 4, "LDGSTS": 12}, name="narrow")
    row = replace(ROW, stages=(*ROW.stages, narrow))
    with pytest.raises(ValueError, match=r"0 main loops with {'HMMA': 4, 'LDGSTS': 12}, expected one for each layout"):
        counted(kernel(), row)
    more = pipeline("LDSM.16.M88", "narrow", copy=copies), pipeline("LDSM.16.MT88", "narrow", copy=copies)
    parts = counted(["@P5 BRA narrow.M88stage", "@P4 BRA narrowMT88stage", *kernel(), *more[0], *more[1]], row)
    assert list(parts)[6:] == [
        f"{one} narrow {part}" for one in ("nhwc", "nchw") for part in ("before", "stage", "after")
    ]
    assert (parts["nchw stage"]["LDGSTS"], parts["nchw narrow stage"]["LDGSTS"]) == ("4", "12")
    assert (parts["nchw before"]["instructions"], parts["nchw narrow before"]["instructions"]) == ("4", "1")
