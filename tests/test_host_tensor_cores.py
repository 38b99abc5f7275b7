"""The host execution's tensor cores: fragments and sums against values worked out by hand.

Positions are read off the figures and formulas of the PTX ISA, with its groupID = lane / 4 and threadID_in_group =
lane % 4.
"""

from __future__ import annotations

import numpy as np
import pytest
from host.build import build
from host.primitives.launch import launch
from host.worker import run


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_load(transposed: bool) -> None:
    """Element (row, column) of matrix m is the number 256 m + 16 row + column."""
    m, row, column = np.meshgrid(np.arange(4), np.arange(8), np.arange(8), indexing="ij")
    given = (256 * m + 16 * row + column).astype(np.uint16)
    name = "matrix load transposed" if transposed else "matrix load"
    (out,) = run(build("plain"), launch(name, given, 128))
    pairs = out.view(np.uint16).reshape(4, 32, 2)
    # lane: (row, column) of its two elements
    by_hand = {
        0: ((0, 0), (0, 1)),
        1: ((0, 2), (0, 3)),
        5: ((1, 2), (1, 3)),
        14: ((3, 4), (3, 5)),
        31: ((7, 6), (7, 7)),
    }
    for lane, elements in by_hand.items():
        for i, (first, second) in enumerate(elements):
            place = (second, first) if transposed else (first, second)
            assert [pair[i] for pair in pairs[:, lane]] == [256 * k + 16 * place[0] + place[1] for k in range(4)]
    assert (np.sort(pairs.reshape(4, 64)) == np.sort(given.reshape(4, 64))).all()


def bits16(values: np.ndarray, kind: str) -> np.ndarray:
    """fp16 or bfloat16 bits of numbers that both hold exactly."""
    if kind == "fp16":
        return values.astype(np.float16).view(np.uint16)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def product(kind: str, a: np.ndarray, b: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Fragments a (4, 32), b (2, 32) and sums (4, 32), words by lanes, through one mma: the new sums (4, 32)."""
    given = np.concatenate([a.reshape(-1), b.reshape(-1), sums.astype(np.float32).view(np.uint32).reshape(-1)])
    (out,) = run(build("plain"), launch(f"product {kind}", given, 128, orders=2))
    return out.view(np.float32).reshape(4, 32)


# (row, depth, column) of a product a[row, depth] * b[depth, column], and by hand from groupID = lane / 4 and
# threadID_in_group = lane % 4: (lane, word, half) of a and of b, (lane, word) of the sum.
HALVES = [
    ((3, 6, 5), (15, 0, 0), (23, 0, 0), (14, 1)),
    ((11, 5, 2), (14, 1, 1), (10, 0, 1), (13, 2)),
    ((2, 13, 7), (10, 2, 1), (30, 1, 1), (11, 1)),
    ((15, 8, 0), (28, 3, 0), (0, 1, 0), (28, 2)),
]
TF32 = [
    ((2, 3, 6), (11, 0), (27, 0), (11, 0)),
    ((12, 1, 1), (17, 1), (5, 0), (16, 3)),
    ((0, 7, 4), (3, 2), (19, 1), (2, 0)),
    ((9, 4, 0), (4, 3), (0, 1), (4, 2)),
]


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize(
    ("of_a", "of_b", "of_sum"), [case[1:] for case in HALVES], ids=[str(case[0]) for case in HALVES]
)
def test_fragments_of_16_bit_products(
    kind: str, of_a: tuple[int, ...], of_b: tuple[int, ...], of_sum: tuple[int, int]
) -> None:
    a, b = np.zeros((4, 32, 2), np.uint16), np.zeros((2, 32, 2), np.uint16)
    for fragments, (lane, word, half), value in ((a, of_a, 3.0), (b, of_b, 5.0)):
        fragments[word, lane, half] = bits16(np.array([value]), kind)[0]
    expected = np.ones((4, 32))
    expected[of_sum[1], of_sum[0]] = 16
    assert (product(kind, a.view(np.uint32), b.view(np.uint32), np.ones((4, 32))) == expected).all()


@pytest.mark.parametrize(("of_a", "of_b", "of_sum"), [case[1:] for case in TF32], ids=[str(case[0]) for case in TF32])
def test_fragments_of_tf32_products(of_a: tuple[int, int], of_b: tuple[int, int], of_sum: tuple[int, int]) -> None:
    a, b = np.zeros((4, 32), np.float32), np.zeros((2, 32), np.float32)
    a[of_a[1], of_a[0]], b[of_b[1], of_b[0]] = 3, 5
    expected = np.ones((4, 32))
    expected[of_sum[1], of_sum[0]] = 16
    assert (product("tf32", a.view(np.uint32), b.view(np.uint32), np.ones((4, 32))) == expected).all()


@pytest.mark.parametrize("kind", ["fp16", "bf16", "tf32"])
def test_whole_products(kind: str) -> None:
    """Small integers, so that nothing is rounded; fragments cut out of the matrices along the axes of the figures."""
    depth = 8 if kind == "tf32" else 16
    random = np.random.default_rng(0)
    a, b, c = (random.integers(-8, 9, shape).astype(np.float64) for shape in ((16, depth), (depth, 8), (16, 8)))
    if kind == "tf32":
        # rows (half, group), depths (half, member) -> words (depth half, row half) by lanes (group, member)
        a_words = a.reshape(2, 8, 2, 4).transpose(2, 0, 1, 3).reshape(4, 32).astype(np.float32)
        b_words = b.reshape(2, 4, 8).transpose(0, 2, 1).reshape(2, 32).astype(np.float32)
    else:
        # the same with depths (half, member, neighbour), the neighbours in one word
        a_words = bits16(a.reshape(2, 8, 2, 4, 2).transpose(2, 0, 1, 3, 4), kind)
        b_words = bits16(b.reshape(2, 4, 2, 8).transpose(0, 3, 1, 2), kind)

    def sums(matrix: np.ndarray) -> np.ndarray:  # rows (half, group), columns (member, neighbour)
        return matrix.reshape(2, 8, 4, 2).transpose(0, 3, 1, 2).reshape(4, 32)

    words = [np.ascontiguousarray(part).view(np.uint32) for part in (a_words, b_words)]
    assert (product(kind, words[0], words[1], sums(c)) == sums(c + a @ b)).all()


@pytest.mark.parametrize(
    ("start", "terms", "truncated"),
    [
        (1.0, [2.0**-24] * 16, 1.0),  # each is cut off before it could add up to 2^-20
        (-1.0, [-(2.0**-24)] * 16, -1.0),
        (1.0, [-(2.0**-24)] * 16, 1.0),  # towards zero would be below: what is cut off is the term
        (2.0**24, [3.0], 2.0**24 + 2),  # rounded: 2^24 + 4
        (-(2.0**24), [-3.0], -(2.0**24) - 2),
        (0.0, [1.0, 2.0**-12] + [0.0] * 6 + [2.0**-12] * 8, 1.0 + 9 * 2.0**-12),
        (0.0, [2.0**-20] * 8 + [2.0**20] * 8, 2.0**23),  # small ones first are lost later
    ],
)
def test_sums_of_products_are_truncated(start: float, terms: list[float], truncated: float) -> None:
    """bf16, element (0, 0): a[0, k] = the terms, b[k, 0] = 1."""
    a = np.zeros((16, 16))
    a[0, : len(terms)] = terms
    b = np.ones((16, 8))
    a_words = bits16(a.reshape(2, 8, 2, 4, 2).transpose(2, 0, 1, 3, 4), "bf16")
    b_words = bits16(b.reshape(2, 4, 2, 8).transpose(0, 3, 1, 2), "bf16")
    words = [np.ascontiguousarray(part).view(np.uint32) for part in (a_words, b_words)]
    assert product("bf16", words[0], words[1], np.full((4, 32), start))[0, 0] == truncated


def test_products_of_tf32_ignore_the_lower_bits() -> None:
    a, b = np.zeros((4, 32), np.float32), np.zeros((2, 32), np.float32)
    a[0, 0], b[0, 0] = 1 + 2**-10 + 2**-11, 1  # of element (0, 0)
    assert product("tf32", a.view(np.uint32), b.view(np.uint32), np.zeros((4, 32)))[0, 0] == 1 + 2**-10
