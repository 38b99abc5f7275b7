"""The regression guard: fixed small calls do no more, and no less, than bench/results/guard.csv says."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest
import torch

from bench import callgrind, guard, tables
from bench.guard_cases import CASES
from bench.guard_counts import counts

NUMBERS = {"operators": "400", "own_operators": "20", "allocations": "90", "bytes": "1000000", "instructions": "500000"}
ROW = {"case": "a loss", **NUMBERS, "torch": "2.13.0", "compiler": "GNU 12"}
EVERY = (*guard.COUNTS, guard.INSTRUCTIONS)


@pytest.fixture(scope="module")
def counted(library: None) -> list[dict[str, str]]:
    return guard.counted()


def assert_unchanged(now: list[dict[str, str]], columns: tuple[str, ...]) -> None:
    before = tables.read(guard.TABLE)
    if reason := guard.not_comparable(before, now, columns):
        pytest.skip(reason)
    found = guard.changes(before, now, columns)
    assert not found, "\n".join([*found, guard.ACCEPT])


def test_counts_are_those_of_the_table(counted: list[dict[str, str]]) -> None:
    assert_unchanged(counted, guard.COUNTS)


@pytest.mark.skipif(bool(callgrind.why_not()), reason=callgrind.why_not())
def test_instructions_are_those_of_the_table(counted: list[dict[str, str]]) -> None:
    assert_unchanged(guard.with_instructions(counted), (guard.INSTRUCTIONS,))


# ---- the comparison itself ----


def test_the_table_has_every_case_and_number() -> None:
    rows = tables.read(guard.TABLE)
    assert [row["case"] for row in rows] == [case.name for case in CASES] and len(rows) >= 10
    for row, case in zip(rows, CASES, strict=True):
        assert all(int(row[column]) > 0 for column in guard.COUNTS)
        assert bool(row[guard.INSTRUCTIONS]) == case.instructions


@pytest.mark.parametrize(
    ("column", "now", "is_red"),
    [
        ("operators", "401", True), ("operators", "399", True), ("own_operators", "21", True),
        ("allocations", "91", True), ("bytes", "1030000", False), ("bytes", "1031000", True),
        ("bytes", "960000", True), ("instructions", "514000", False), ("instructions", "486000", False),
        ("instructions", "600000", True), ("instructions", "416667", True),
    ],
)  # fmt: skip
def test_a_change_is_named_both_ways(column: str, now: str, is_red: bool) -> None:
    assert not guard.changes([ROW], [ROW], EVERY)
    found = guard.changes([ROW], [ROW | {column: now}], EVERY)
    ratio = f"({int(now) / int(ROW[column]):.3f} times)"
    assert found == ([f"a loss: {column.replace('_', ' ')} were {ROW[column]}, are {now} {ratio}"] if is_red else [])


def test_a_case_of_one_side_alone_is_named() -> None:
    other = ROW | {"case": "another"}
    assert guard.changes([ROW], [other], EVERY) == ["another: not in guard.csv", "a loss: in guard.csv alone"]


def test_what_another_torch_or_compiler_made_is_not_compared() -> None:
    assert not guard.not_comparable([ROW], [ROW], guard.COUNTS)
    alike = ROW | {"torch": "2.13.0+cu130", "compiler": "GNU 12.3.0"}
    assert not guard.not_comparable([ROW], [alike], guard.COUNTS)
    assert not guard.not_comparable([ROW], [alike], (guard.INSTRUCTIONS,))
    newer = ROW | {"torch": "2.14.0", "compiler": "GNU 13.2.0"}
    assert "torch 2.13.0, here it is 2.14.0" in guard.not_comparable([ROW], [newer], guard.COUNTS)
    assert "compiler GNU 12, here it is GNU 13" in guard.not_comparable([ROW], [newer], (guard.INSTRUCTIONS,))


def test_one_more_copy_is_one_more_operator_and_allocation() -> None:
    x = torch.rand(4, 256)

    def with_a_copy() -> torch.Tensor:
        return (x + 1).clone()

    before, now = counts(lambda: x + 1), counts(with_a_copy)
    assert now["operators"] > before["operators"] and now["allocations"] == before["allocations"] + 1
    assert now["bytes"] == before["bytes"] + 4 * x.numel()
    assert counts(lambda: torch.ops.perceptual_ops.l2_pool(x.view(1, 4, 16, 16)))["own_operators"] == 1


PROFILE = """positions: instr line
events: Ir
fn=(1) walk
0x1000 0 7
0x1004 12 5
cfn=(2) malloc
calls=19 0x9000 0
0x1008 0 1000
0x1008 0 19
fn=(2)
0x9000 0 300
0x1fff 0 2
0x2000 0 50
"""


def test_instructions_at_addresses_are_summed_without_those_of_calls() -> None:
    assert callgrind.instructions_of(PROFILE, Path("/a/_C.so"), range(0x1000, 0x2000)) == 7 + 5 + 19 + 2


OF_A_FILE = """ob=(3) /a/python
fn=(1) main
0x10 0 1000
cob=(5) /a/_C.so
cfn=(2) walk
calls=19 0x10 0
0x14 0 500
ob=(5)
fn=(2)
0x10 0 7
fl=(9) a header
0x14 0 2
ob=(3)
fn=(1)
0x18 0 300
"""


def test_instructions_of_a_file_are_summed_where_valgrind_knows_it() -> None:
    assert callgrind.instructions_of(OF_A_FILE, Path("/a/_C.so"), range(0x900, 0xA00)) == 7 + 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_code_of_a_library_is_where_it_is_mapped() -> None:
    file = Path(torch.__file__).resolve().parent / "lib/libtorch_cpu.so"
    address = ctypes.cast(ctypes.CDLL(str(file)).aoti_torch_device_type_cpu, ctypes.c_void_p).value
    assert address in callgrind.code_of(file)
