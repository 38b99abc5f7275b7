"""Which cases run: all of them, or few small ones where every step is slow or runs often."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from maps import DTYPES

from host import cases
from host.cases import DISTANCES, Case

Shape = tuple[int, ...]
Row = tuple[int, int, int, int]
Image = tuple[Shape, int]

LAYOUTS = ["nchw", "nhwc", "sliced nchw", "sliced nhwc"]

# Three pixel splits, two tiles along each axis, tails in both; three tiles along an axis; tiles and a split that end
# where the map does; less than a tile; one element.
GRAM_SHAPES: list[Shape] = [(2, 70, 10, 103), (1, 130, 3, 5), (1, 64, 16, 32), (3, 5, 7, 9), (1, 1, 1, 1)]
SMALL_GRAM_SHAPES: list[Shape] = [(2, 66, 3, 175), (1, 5, 3, 7)]
# Rows beyond one walk of a block, one partial walk, one element: (N, C, N of the targets)
MATRICES: list[Shape] = [(2, 130, 2), (3, 40, 1), (1, 1, 1)]
SMALL_MATRICES: list[Shape] = [(2, 130, 1)]
# Three chunks with a tail, one chunk exactly, less than the threads of a block, one element:
# (N, E, N of the targets, elements between the samples)
ROWS = [(2, 16500, 2, 0), (2, 8192, 1, 5), (3, 77, 1, 0), (1, 1, 1, 0)]
SMALL_ROWS = [(2, 8300, 2, 3), (2, 77, 1, 0)]
# Several blocks and walks with tails, one row, one column, one element; samples together and apart.
IMAGES: list[Image] = [((2, 3, 11, 37), 0), ((2, 3, 8, 32), 1), ((1, 5, 1, 9), 0), ((2, 3, 9, 1), 1), ((1, 1, 1, 1), 0)]
SMALL_IMAGES: list[Image] = [((2, 3, 5, 37), 1)]


def all_cases() -> list[Case]:
    return [
        *_gram_cases(DTYPES, LAYOUTS, GRAM_SHAPES),
        *_matrix_cases(DTYPES, MATRICES),
        *_feature_cases(DTYPES, ROWS),
        *_variation_cases(DTYPES, IMAGES),
    ]


def small_cases() -> list[Case]:
    dtypes = [torch.float32, torch.bfloat16]
    return [
        *_gram_cases(dtypes, LAYOUTS[1:3], SMALL_GRAM_SHAPES),
        *_matrix_cases(dtypes[:1], SMALL_MATRICES),
        *_feature_cases(dtypes, SMALL_ROWS),
        *_variation_cases(dtypes, SMALL_IMAGES),
    ]


def _name(launcher: str, *parts: object) -> str:
    return " ".join([launcher, *(str(part).removeprefix("torch.") for part in parts)])


def _gram_cases(dtypes: list[torch.dtype], layouts: list[str], shapes: list[Shape]) -> Iterator[Case]:
    for number, key in enumerate(product(dtypes, layouts, shapes)):
        yield Case(_name("gram", *key), partial(cases.gram, *key))
        yield Case(_name("gram_gradient", *key), partial(cases.gram_gradient, *key, upstream=number % 2 == 0))


def _matrix_cases(dtypes: list[torch.dtype], matrices: list[Shape]) -> Iterator[Case]:
    for dtype, (batch, channels, targets) in product(dtypes, matrices):
        yield Case(_name("symmetrise", dtype, channels), partial(cases.symmetrise, dtype, batch, channels))
        for number, distance in enumerate(DISTANCES):
            key = (dtype, distance, batch, channels, targets)
            yield Case(_name("style_distance", *key), partial(cases.style_distance, *key, number % 2 == 0))


def _feature_cases(dtypes: list[torch.dtype], rows: list[Row]) -> Iterator[Case]:
    for number, key in enumerate(product(dtypes, DISTANCES, rows)):
        dtype, distance, row = key
        yield Case(_name("feature_loss", *key), partial(cases.feature_loss, dtype, distance, *row, number % 2 == 0))
        yield Case(_name("feature_loss_gradient", *key), partial(cases.feature_loss_gradient, dtype, distance, *row))


def _variation_cases(dtypes: list[torch.dtype], images: list[Image]) -> Iterator[Case]:
    for dtype, kind, layout, (shape, gap) in product(dtypes, ["l1", "l2_squared"], ["nchw", "nhwc"], images):
        key = (dtype, kind, layout, shape, gap)
        yield Case(_name("total_variation", *key), partial(cases.total_variation, *key))
        yield Case(_name("total_variation_gradient", *key), partial(cases.total_variation_gradient, *key))
