"""Registers and memory of every kernel: within its target, and as bench/results/kernel_resources.csv says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_tables import assert_committed

from bench import cubins, kernel_resources
from bench.cubins import Resources
from bench.kernel_resources import SYSTEM, TARGETS, TUNED, Target, blocks_of, target_of


@pytest.fixture
def built() -> tuple[Resources, ...]:
    if reason := cubins.missing():
        pytest.skip(reason)
    return cubins.resources()


def test_every_kernel_is_within_its_target(built: tuple[Resources, ...]) -> None:
    complaints = []
    for kernel in built:
        target = target_of(kernel.kernel)
        complaints += target.excess(kernel) if target else [f"{kernel.kernel}: no row of kernel_resources.TARGETS"]
    used = [target_of(kernel.kernel) for kernel in built]
    stale = [name for name, target in TARGETS.items() if not any(target is one for one in used)]
    complaints += [f"{name}: no kernel of this name, take its row out of kernel_resources.TARGETS" for name in stale]
    assert not complaints, "\n".join(complaints)


def test_the_table_is_that_of_the_library(built: tuple[Resources, ...]) -> None:
    assert_committed(kernel_resources.rows(), kernel_resources.TABLE, "make kernel-resources")


# --- what the tests see -----------------------------------------------------------------------------------------------

KERNEL = Resources("kernel<float>", TUNED, threads=256, registers=128, shared=9 * SYSTEM, stack=0, local=0)
TARGET = Target(threads=256, blocks=2, dynamic_shared=64 * 1024)


@pytest.mark.parametrize(
    ("threads", "blocks", "registers"), [(256, 2, 128), (256, 5, 48), (1024, 1, 64), (128, 12, 40), (100, 1, 255)]
)
def test_registers_of_a_target(threads: int, blocks: int, registers: int) -> None:
    """65536 registers of an SM over its warps, in multiples of 256 a warp."""
    assert Target(threads, blocks).registers == registers


@pytest.mark.parametrize(
    ("growth", "sentence"),
    [
        ({"registers": 129}, "129 registers (2 blocks of 256 threads on an SM), at most 128"),
        ({"stack": 8}, "8 bytes of stack, at most 0"),
        ({"local": 4}, "4 bytes of local memory, at most 0"),
        ({"shared": 37 * SYSTEM}, "103424 bytes of shared memory (the smallest architecture), at most 102400"),
        ({"threads": 0}, "__launch_bounds__ of no threads, expected 256"),
        # Before sm_90 the system's kilobyte is not in the number.
        ({"architecture": 86, "shared": 36 * SYSTEM}, "103424 bytes of shared memory (the smallest architecture)"),
    ],
)
def test_growth_beyond_the_target_is_found(growth: dict[str, int], sentence: str) -> None:
    assert TARGET.excess(KERNEL) == []
    (said,) = TARGET.excess(replace(KERNEL, **growth))
    assert sentence in said and said.startswith("kernel<float> on sm_")


def test_blocks_that_do_not_fit_an_sm_together_are_found() -> None:
    many = replace(TARGET, blocks=4)
    said = many.excess(replace(KERNEL, registers=64))
    assert said == ["kernel<float> on sm_90: 299008 bytes of shared memory (all blocks of an SM), at most 233472"]
    assert (
        Target(threads=512, blocks=5)
        .excess(replace(KERNEL, registers=20))[0]
        .endswith("2560 threads of an SM, at most 2048")
    )


def test_blocks_of_an_sm() -> None:
    """By registers, by threads and by shared memory, here of the Gram kernel: 96 KB and what a block always takes."""
    gram = Resources("gram_sum_kernel<float>", TUNED, threads=256, registers=128, shared=SYSTEM, stack=0, local=0)
    assert blocks_of(gram) == 2
    assert blocks_of(replace(gram, registers=129)) == 1
    assert blocks_of(replace(gram, architecture=86, shared=0)) == 1
    streaming = replace(gram, kernel="normalize_kernel<float, float, 3>", registers=20)
    assert blocks_of(streaming) == 8
    assert blocks_of(replace(streaming, architecture=120)) == 6
    with pytest.raises(ValueError, match="sm_75: no row of TARGETS or SMS"):
        blocks_of(replace(streaming, architecture=75))


def test_the_answer_of_cuobjdump() -> None:
    if cubins.tool("c++filt") is None:
        pytest.skip("c++filt not found: install binutils")
    usage = """
arch = sm_90
 Common:
  GLOBAL:0
 Function _Z3twov:
  REG:30 STACK:16 SHARED:1056 LOCAL:8 CONSTANT[0]:424 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z3onev:
  REG:22 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:424
arch = sm_80
 Function _Z3twov:
  REG:31 STACK:0 SHARED:32 LOCAL:0 CONSTANT[0]:424
"""
    threads = {("_Z3twov", 80): 128, ("_Z3twov", 90): 128, ("_Z3onev", 90): 0}
    assert cubins.read_resources(usage, threads) == (
        Resources("one", 90, 0, 22, 0, 0, 0),
        Resources("two", 80, 128, 31, 32, 0, 0),
        Resources("two", 90, 128, 30, 1056, 16, 8),
    )


def test_the_threads_of_a_kernel() -> None:
    """Attributes of two bytes and of more, before that of the most threads: 32 x 4 x 1."""
    before = bytes.fromhex("031b8000 041c0800 a0020000b0170000")
    assert cubins.max_threads(before + bytes.fromhex("04050c00 20000000 04000000 01000000 03500000")) == 128
    assert cubins.max_threads(before) == 0
