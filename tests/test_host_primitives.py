"""The host execution itself: what its primitives do, right or wrong, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from host.build import build
from host.primitives.launch import launch, numbers
from host.worker import run

GARBAGE = 0xFFFFFFFF


# --- the order of threads ---------------------------------------------------------------------------------------------


def test_every_thread_of_every_block_runs_once() -> None:
    (out,) = run(build("plain"), launch("indices", numbers(1), 99, blocks=3, threads=33))
    assert out.view(np.uint32).tolist() == [
        block << 16 | 3 << 12 | thread for block in range(3) for thread in range(33)
    ]


@pytest.mark.parametrize(("name", "threads"), [("neighbours", 256), ("buffer reuse", 256), ("warp neighbours", 64)])
def test_a_missing_barrier_shows_in_some_order(name: str, threads: int) -> None:
    given = numbers(threads) * 3
    (out,) = run(build("plain"), launch(name, given, threads, threads=threads))
    group = 32 if name.startswith("warp") else threads
    neighbour = np.roll(given.reshape(-1, group), -1, axis=1).reshape(-1)
    assert (out.view(np.uint32) == (neighbour * 4 + 6 if name == "buffer reuse" else neighbour)).all()
    with pytest.raises(RuntimeError, match="gives other bits than order 0"):
        run(build("plain"), launch(f"{name} without barrier", given, threads, threads=threads))


@pytest.mark.parametrize(
    ("name", "threads", "sentence"),
    [
        ("divergent barrier", 64, r"divergent barrier: __syncthreads at primitives.cu:\d+ reached by 24 of 64 threads"),
        (
            "two barriers",
            64,
            r"divergent barrier: __syncthreads at primitives.cu:\d+ while \d+ threads wait in the one",
        ),
        ("missing lanes", 64, r"missing lanes: __shfl_xor_sync at primitives.cu:\d+ reached by lanes 0xffff of 0xfff"),
        ("shuffles", 48, r"missing lanes: __shfl_sync at primitives.cu:\d+ reached by lanes 0xffff of 0xffffffff"),
        (
            "divergent warp",
            32,
            r"divergent warp: __shfl_\w+_sync at primitives.cu:\d+ of lane \d+ while others wait in",
        ),
    ],
)
def test_threads_that_do_not_meet_are_an_error(name: str, threads: int, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        run(build("plain"), launch(name, numbers(64), 9 * 64, threads=threads))
    # The module goes on after an error.
    assert run(build("plain"), launch("indices", numbers(1), 64, threads=64))


# --- memory -----------------------------------------------------------------------------------------------------------


def test_shared_memory_is_garbage_at_the_beginning_of_every_block() -> None:
    (out,) = run(build("plain"), launch("unwritten shared", numbers(1), 96, blocks=3))
    assert (out.view(np.uint32) == GARBAGE).all()


def test_dynamic_shared_memory() -> None:
    (out,) = run(build("plain"), launch("dynamic shared", numbers(32), 32, shared_bytes=128))
    assert (out.view(np.uint32) == numbers(32)[::-1]).all()
    assert run(build("plain"), launch("dynamic shared", numbers(32), 32, shared_bytes=99 * 1024))


@pytest.mark.parametrize(
    ("name", "first_word", "sentence"),
    [
        ("write outside", 1, "out: written at byte 0 after its end"),
        ("write outside", -2, "out: written from byte 8 before its beginning on"),
        ("write input", 0, "in: written, though it is an input"),
        ("write after shared", 3, "shared array values: written at byte 0 after its end"),
        ("packs", 1, r"misaligned access: load_pack at primitives.cu:\d+ of an address that is 4 bytes past"),
        (
            "misaligned store",
            2,
            r"misaligned access: store_pack .* 8 bytes past a multiple of 16 \[thread \d+, 0, 0 of",
        ),
        (
            "misaligned copy",
            0,
            r"misaligned access: copy_async at primitives.cu:\d+ of an address that is 4 bytes past",
        ),
        ("copy to unaligned shared", 0, r"misaligned access: copy_async at primitives.cu:\d+ of an address that is 4"),
        ("copy to global", 0, r"copy_async at primitives.cu:\d+: the address is not in the block's shared memory"),
        ("matrix load from global", 0, r"load_matrices at primitives.cu:\d+: the address is not in the block's shared"),
        ("much static shared", 0, "shared memory: 49156 bytes of static arrays, at most 49152 are possible"),
    ],
)
def test_wrong_access_is_an_error(name: str, first_word: int, sentence: str) -> None:
    given = numbers(128)
    given[0] = first_word & GARBAGE
    with pytest.raises(RuntimeError, match=sentence):
        run(build("plain"), launch(name, given, 32))


@pytest.mark.parametrize(
    ("blocks", "threads", "shared_bytes", "sentence"),
    [
        (1, 1025, 0, "launch: 1025 x 1 x 1 threads a block, expected 1 to 1024"),
        (1, 0, 0, "launch: 0 x 1 x 1 threads a block, expected 1 to 1024"),
        (0, 32, 0, "launch: a grid of 0 x 1 x 1 blocks, expected at least 1"),
        (2**31, 32, 0, "launch: 2147483648 blocks, expected 1 to"),
        (1, 32, 99 * 1024 + 1, "shared memory: 101377 bytes a block, the smallest supported architecture has 101376"),
    ],
)
def test_launches_beyond_the_limits_are_an_error(blocks: int, threads: int, shared_bytes: int, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        run(build("plain"), launch("indices", numbers(1), 32, blocks, threads, shared_bytes))


def test_static_and_dynamic_shared_memory_beyond_the_limit_together_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="shared memory: 102400 bytes a block, the smallest supported architecture"):
        run(build("plain"), launch("neighbours", numbers(64), 64, threads=64, shared_bytes=99 * 1024))


@pytest.mark.parametrize(("first", "count"), [(4, 4), (8, 4)])
def test_packs(first: int, count: int) -> None:
    given = numbers(64)
    given[0] = first
    (out,) = run(build("plain"), launch("packs", given, count, threads=1))
    assert (out.view(np.uint32) == given[first : first + count]).all()


# --- warps ------------------------------------------------------------------------------------------------------------


def test_shuffles_and_votes() -> None:
    value = numbers(64) ** 2
    (out,) = run(build("plain"), launch("shuffles", value, 9 * 64, threads=64))
    lane = numbers(32).astype(int)
    own = lane
    sources = [
        np.full(32, 5),
        lane // 8 * 8 + 1,  # lane 9 % 8 of every group of 8
        np.where(lane < 3, own, lane - 3),
        np.where(lane % 16 < 3, own, lane - 3),
        np.where(lane > 28, own, lane + 3),
        np.where(lane % 16 > 12, own, lane + 3),
        lane ^ 6,
        np.where(lane & 4, lane ^ 6, own),  # 6 leads out of a group of 4: only a group before may be read
    ]
    for row, source in zip(out.view(np.uint32).reshape(9, 2, 32)[:8], sources, strict=True):
        assert row[0].tolist() == value[:32][source].tolist()
        assert row[1].tolist() == value[32:][source].tolist()
    votes = out.view(np.uint32).reshape(9, 2, 32)[8]
    assert (votes[0] == 0b01001001001001001001001001001001).all()  # lanes 0, 3, 6, ... 30
    assert (votes[1] == 0b10010010010010010010010010010010).all()  # threads 33, 36, ... 63


def test_the_halves_of_a_warp_may_part() -> None:
    (out,) = run(build("plain"), launch("half warps", numbers(32), 32))
    assert out.view(np.uint32).tolist() == [lane ^ 1 if lane < 16 else lane ^ 2 for lane in range(32)]


# --- asynchronous copies ----------------------------------------------------------------------------------------------


def test_async_copies_are_garbage_until_their_wait() -> None:
    given = numbers(128) + 1000
    (out,) = run(build("plain"), launch("copies", given, 4 * 128))
    before, first, second_early, second = out.view(np.uint32).reshape(4, 128)
    assert (before == GARBAGE).all()  # neither what was there, 5, nor the data
    assert (first == given).all()
    assert (second_early == GARBAGE).all()  # one group may be under way
    assert (second.reshape(32, 4)[:, :2] == given.reshape(32, 4)[:, :2]).all()
    assert (second.reshape(32, 4)[:, 2:] == 0).all()  # 8 of 16 bytes were asked for
