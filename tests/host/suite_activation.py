"""Which cases of a trunk's activations run: all of them, or few small ones; see suite.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from maps import DTYPES, LAYOUTS, random_map
from torch import Tensor

from host import cases_activation as cases
from host.cases import Case, named
from host.cases_activation import Shape, Window

# (shape, elements before the map). Groups of channels in one block and in several, one map that begins between packs,
# channels that do not come in eights, whose samples end inside a byte.
MAPS: list[tuple[Shape, int]] = [
    ((3, 64, 7, 9), 0),
    ((1, 8, 45, 49), 0),
    ((2, 16, 7, 6), 1),
    ((3, 5, 7, 9), 0),
    ((1, 1, 1, 1), 0),
]
SMALL_MAPS: list[tuple[Shape, int]] = [((2, 64, 15, 17), 0), ((2, 8, 7, 6), 1), ((2, 5, 7, 9), 0)]
# Windows side by side, overlapping, apart, larger than 4 bits can say.
WINDOWS: list[Window] = [
    ("max", 2, 2),
    ("max", 3, 2),
    ("max", 3, 1),
    ("max", 2, 3),
    ("max", 2, 2**40),
    ("max", 4, 3),
    ("max", 1, 1),
    ("average", 2, 2),
    ("average", 3, 2),
    ("blur", 2, 2),
    ("blur", 2, 1),
    ("blur", 3, 2),
    ("blur", 2, 4),
    ("blur", 4, 3),
]
SMALL_WINDOWS: list[Window] = [("max", 2, 2), ("max", 3, 2), ("max", 4, 3), ("average", 2, 2), ("blur", 2, 2)]
# The last: a border that is reflected over the whole map.
POOLED: list[tuple[Shape, int]] = [
    ((3, 64, 7, 9), 0),
    ((1, 8, 10, 6), 0),
    ((2, 16, 7, 6), 1),
    ((2, 5, 7, 9), 0),
    ((1, 8, 6, 6), 0),
]
SMALL_POOLED: list[tuple[Shape, int]] = [((2, 16, 9, 7), 0), ((2, 8, 6, 7), 1), ((2, 5, 7, 7), 0)]
# Windows that are pooled in the pass that makes the map, and in one of their own.
POOLED_IN_PLACE: list[Window] = [("max", 2, 2), ("average", 2, 2), ("max", 3, 2)]
# Whose middle the reflected borders of "blur" do not reach.
BETWEEN_BORDERS: tuple[Shape, int] = ((2, 16, 13, 16), 0)
SIZES: list[Shape] = [(2, 3, 15, 21), (1, 5, 3, 4)]
BIASES = [None, "narrow", "wide"]
TERMS = ["", "t", "bfm", "tbfm", "fm"]
POOL_TERMS = ["", "stm", "bfm", "stbfm", "tf", "sb"]

IMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: LAYOUTS[name] for name in ("nchw", "nhwc", "cropped", "columns outside rows")},
    "grey": lambda x: x[:, :1].expand(-1, x.shape[1], -1, -1),
    "one for all": lambda x: x[:1].expand(x.shape[0], -1, -1, -1),
}
WRITTEN = ["nchw", "nhwc", "cropped", "columns outside rows"]


def activation_cases() -> list[Case]:
    return [
        *_normalize_cases(list(product(DTYPES, DTYPES)), SIZES),
        *_normalize_backward_cases(DTYPES, SIZES),
        *_relu_cases(DTYPES, MAPS),
        *_pool_cases(DTYPES, WINDOWS, POOLED),
        *_pool_cases(DTYPES[2:3], [("blur", 2, 2), ("blur", 2, 1)], [((1, 8, 4, 5), 0), ((1, 5, 5, 4), 0)]),
        *_pool_cases(DTYPES, [("blur", 2, 2)], [BETWEEN_BORDERS]),
        *_relu_pool_cases(DTYPES, [*POOLED, ((1, 8, 45, 49), 0)]),
        *_infinite_bias_cases(DTYPES),
    ]


def small_activation_cases() -> list[Case]:
    dtypes = [torch.float32, torch.bfloat16]
    return [
        *_normalize_cases([(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], SIZES),
        *_normalize_backward_cases(dtypes, SIZES),
        *_relu_cases(dtypes, SMALL_MAPS),
        *_pool_cases(dtypes, SMALL_WINDOWS, SMALL_POOLED),
        *_relu_pool_cases(dtypes, SMALL_POOLED),
        *_pool_cases(dtypes[1:], [("blur", 2, 2)], [((1, 8, 4, 5), 0), BETWEEN_BORDERS]),
        *_pool_cases(dtypes[:1], [("blur", 2, 2)], [((1, 8, 4, 5), 0), BETWEEN_BORDERS]),
        *_infinite_bias_cases(dtypes),
    ]


def _normalize_cases(dtypes: list[tuple[torch.dtype, torch.dtype]], shapes: list[Shape]) -> Iterator[Case]:
    for key, shape, layout in product(dtypes, shapes, IMAGES):
        images = IMAGES[layout](random_map(shape, key[0], "cpu", 1))
        yield Case(named("normalize", *key, *shape, layout), partial(cases.normalize, *key, images))


def _normalize_backward_cases(dtypes: list[torch.dtype], shapes: list[Shape]) -> Iterator[Case]:
    for number, (dtype, shape, layout) in enumerate(product(dtypes, shapes, WRITTEN)):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        result = LAYOUTS[layout](torch.full(shape, 99.0, dtype=wide))
        add = LAYOUTS[WRITTEN[number // 2 % 4]](random_map(shape, wide, "cpu", 2)) if number % 3 else None
        make = partial(cases.normalize_backward, dtype, result, add, number % 4 > 0)
        yield Case(named("normalize_backward", dtype, *shape, layout), make)


def _relu_cases(dtypes: list[torch.dtype], maps: list[tuple[Shape, int]]) -> Iterator[Case]:
    for number, (dtype, map_, bias) in enumerate(product(dtypes, maps, BIASES)):
        yield Case(named("bias_relu", dtype, *map_, bias), partial(cases.bias_relu, dtype, *map_, bias, number % 4 > 0))
    for dtype, map_, terms in product(dtypes, maps, TERMS):
        make = partial(cases.bias_relu_backward, dtype, *map_, terms)
        yield Case(named("bias_relu_backward", dtype, *map_, terms), make)
    for dtype in dtypes:
        yield Case(named("bias_relu_backward", dtype, "nan"), partial(cases.nan_maximum, dtype))


def _pool_cases(dtypes: list[torch.dtype], windows: list[Window], maps: list[tuple[Shape, int]]) -> Iterator[Case]:
    for number, key in enumerate(product(dtypes, windows, maps)):
        dtype, window, map_ = key
        bias, relu, codes = BIASES[number % 3], number % 4 > 0, number % 5 > 0
        name = named("bias_relu_pool", dtype, *window, *map_, bias, relu, codes)
        yield Case(name, partial(cases.bias_relu_pool, dtype, window, *map_, bias, relu, codes))
        terms = POOL_TERMS[number % len(POOL_TERMS)]
        make = partial(cases.bias_relu_pool_backward, dtype, window, *map_, terms)
        yield Case(named("bias_relu_pool_backward", dtype, *window, *map_, terms), make)


def _relu_pool_cases(dtypes: list[torch.dtype], maps: list[tuple[Shape, int]]) -> Iterator[Case]:
    for number, key in enumerate(product(dtypes, POOLED_IN_PLACE, maps)):
        dtype, window, map_ = key
        bias, kept = BIASES[number // 2 % 3], (number % 4 > 0, number % 5 > 0)
        make = partial(cases.bias_relu_pool_in_place, dtype, window, *map_, bias, kept)
        yield Case(named("bias_relu_pool_in_place", dtype, *window, *map_, bias, *kept), make)


def _infinite_bias_cases(dtypes: list[torch.dtype]) -> Iterator[Case]:
    for dtype in dtypes:
        key = dtype, ("blur", 2, 2), *BETWEEN_BORDERS, "infinite"
        yield Case(named("bias_relu_pool", *key), partial(cases.bias_relu_pool, *key, True, True))
