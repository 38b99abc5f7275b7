"""Which cases run: all of them, or few small ones where every step is slow or runs often."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from maps import DTYPES

from host import cases_gram, cases_pointwise
from host.cases import DISTANCES, Case, named
from host.cases_loss_scale import loss_scale_cases
from host.cases_pointwise import WANTED, Layer
from host.suite_activation import activation_cases, small_activation_cases
from host.suite_channel_statistics import small_statistics_cases, statistics_cases
from host.suite_dists import dists_cases, l2_pool_cases, small_dists_cases, small_l2_pool_cases
from host.suite_lpips import lpips_cases, small_lpips_cases

Shape = tuple[int, ...]
Layers = tuple[int, list[Layer]]
Image = tuple[Shape, int, int]

VARIATIONS = ["l1", "l2_squared"]
LAYOUTS = ["nchw", "nhwc", "sliced nchw", "sliced nhwc"]

MIXED = ["nhwc+nchw", "nchw+sliced nhwc"]
MIXED_MAPS: list[list[Shape]] = [[(2, 70, 4, 40), (2, 1, 5, 9), (2, 20, 1, 1), (2, 8, 8, 16)]]

# Whole, aligned stages of tiles of all kinds, then a tail.
WHOLE_MAPS: list[Shape] = [(1, 256, 9, 16), (1, 64, 17, 32)]
# Layers of one launch, in 16 bits; see _maps_of. Several pieces, three tiles with tails, three stages, a narrow layer
# between; lines at multiples of 16 bytes; less than a tile; one element.
MAPS: list[list[Shape]] = [
    WHOLE_MAPS,
    [(2, 130, 10, 103), (2, 64, 16, 97)],
    [(1, 200, 8, 64), (1, 64, 16, 64)],
    [(3, 5, 7, 9)],
    [(1, 1, 1, 1)],
]
STYLE_MAPS: list[list[Shape]] = [[(2, 130, 4, 20), (2, 64, 5, 9)], [(1, 1, 1, 1)]]
SMALL_MAPS: list[list[Shape]] = [[(1, 130, 3, 175), (1, 70, 4, 40)], [(2, 40, 16, 97)], WHOLE_MAPS]
MANY_MAPS: list[Shape] = [(2, 8, 5, 7)] * 17 + [(2, 130, 4, 4)]  # more layers than a launch takes
# Whole, aligned tiles, then tails.
WHOLE_GRADIENT_MAPS: list[Shape] = [(2, 128, 9, 16), (2, 64, 17, 16)]
# Maps of a gradient: several tiles along both axes, stages in excess of the pipeline's, narrow maps, tails.
GRADIENT_MAPS: list[list[Shape]] = [
    WHOLE_GRADIENT_MAPS,
    [(2, 130, 9, 17), (2, 64, 16, 32), (2, 20, 3, 100)],
    [(1, 208, 8, 32)],
    [(3, 5, 7, 9), (3, 70, 1, 1)],
]
SMALL_GRADIENT_MAPS: list[list[Shape]] = [[(2, 130, 5, 9), (2, 40, 7, 40)], WHOLE_GRADIENT_MAPS]
# Rows beyond one walk of a block, one partial walk, one element: (N, C)
MATRICES = [(2, 130), (3, 40), (1, 1)]
# (N, layers). Layers of different sizes, a chunk exactly, one target for all, gaps, one element; maps that begin
# between packs.
LAYERS: list[Layers] = [
    (3, [(77, 3, 0, 0), (8192, 1, 16, 0), (1, 1, 0, 0), (300, 3, 4, 0), (2056, 3, 8, 16)]),
    (2, [(512, 2, 0, 1), (1031, 1, 0, 3)]),
]
# Chunks with a tail, by packs and, as samples of odd size begin anywhere, by elements; more layers than a launch takes.
LONG_LAYERS: list[Layers] = [
    (1, [(40003, 1, 0, 0)]),
    (2, [(17003, 1, 5, 0), (16501, 2, 0, 0)]),
    (2, [(5 + 4 * number, 1 + number % 2, 0, 0) for number in range(35)]),
]
SMALL_LAYERS: list[Layers] = [(2, [(25003, 1, 5, 0), (77, 2, 3, 0), (80, 2, 0, 1)]), (1, [(5, 1, 0, 0)] * 34)]
# (shape, elements between the images, elements before the first). Several blocks, strips that end inside, rows by packs
# and, where they are odd or begin between packs, by elements; one row, one column, one element.
IMAGES: list[Image] = [
    ((2, 3, 21, 64), 0, 0),
    ((2, 3, 11, 37), 0, 0),
    ((2, 3, 18, 32), 8, 16),
    ((2, 3, 6, 16), 0, 1),
    ((2, 3, 5, 8), 3, 0),
    ((1, 5, 1, 9), 0, 0),
    ((2, 3, 9, 1), 1, 0),
    ((1, 1, 1, 1), 0, 0),
]
SMALL_IMAGES: list[Image] = [((2, 3, 6, 32), 8, 0), ((2, 3, 9, 37), 1, 0), ((2, 3, 2, 16), 0, 1)]


def all_cases() -> list[Case]:
    return [
        *(case for dtype in DTYPES for case in _gram_cases([dtype], LAYOUTS, _maps_of(dtype))),
        *_special_gram_cases(DTYPES, LAYOUTS[:2]),
        *long_cases([torch.float32, torch.bfloat16, torch.float16], LAYOUTS[:2], 65536),
        *_style_cases(DTYPES, STYLE_MAPS, MANY_MAPS),
        *_symmetrise_cases(DTYPES, MATRICES),
        *_gradient_cases(DTYPES, LAYOUTS, GRADIENT_MAPS),
        # Three tiles along an axis, and layers of different layouts in one launch.
        *_gram_cases(DTYPES, LAYOUTS[:2], [[(1, 300, 5, 40)]]),
        *_gradient_cases(DTYPES[2:], LAYOUTS[:2], [[(1, 300, 4, 70)]]),
        *_gram_cases(DTYPES, MIXED, MIXED_MAPS),
        *_gradient_cases(DTYPES, MIXED, MIXED_MAPS),
        *_feature_cases(DTYPES, list(DISTANCES), LAYERS),
        *_feature_cases(DTYPES, ["huber"], LONG_LAYERS),
        *_special_cases(DTYPES),
        *_variation_cases(DTYPES, IMAGES),
        *activation_cases(),
        *lpips_cases(),
        *dists_cases(),
        *statistics_cases(),
        *l2_pool_cases(),
        *loss_scale_cases(),
    ]


def small_cases() -> list[Case]:
    """In fp32 and bfloat16, the types of elements that every configuration is compiled for."""
    dtypes = [torch.float32, torch.bfloat16]
    return [
        *_gram_cases(dtypes, LAYOUTS[1:3], SMALL_MAPS),
        Case("gram float32 nchw waves", partial(cases_gram.gram, torch.float32, "nchw", SMALL_MAPS[1], "waves")),
        *_special_gram_cases(dtypes[:1], LAYOUTS[:1]),
        *long_cases([torch.bfloat16], ["nchw"], 32768),
        *_style_cases(dtypes[:1], SMALL_MAPS[:1], MANY_MAPS),
        *_symmetrise_cases(dtypes[:1], MATRICES[:1]),
        *_gradient_cases(dtypes, LAYOUTS[1:3], SMALL_GRADIENT_MAPS),
        *_feature_cases(dtypes, ["mse", "huber"], SMALL_LAYERS),
        *_special_cases(dtypes),
        *_variation_cases(dtypes, SMALL_IMAGES),
        *small_activation_cases(),
        *small_lpips_cases(),
        *small_dists_cases(),
        *small_statistics_cases(),
        *small_l2_pool_cases(),
        *loss_scale_cases(),
    ]


def small_fp16_cases() -> list[Case]:
    """Where fp16 takes what bfloat16 does not: powers of two that keep S in its range."""
    return list(_gradient_cases([torch.float16], LAYOUTS[1:3], SMALL_GRADIENT_MAPS))


def _gram_cases(dtypes: list[torch.dtype], layouts: list[str], inputs: list[list[Shape]]) -> Iterator[Case]:
    for key in product(dtypes, layouts, inputs):
        yield Case(named("gram", *key), partial(cases_gram.gram, *key))


def _maps_of(dtype: torch.dtype) -> list[list[Shape]]:
    """MAPS with as many bytes in each type, and so with as many stages, which are 128 bytes deep."""
    return [[(n, c, max(1, 2 * h // dtype.itemsize), w) for n, c, h, w in shapes] for shapes in MAPS]


def long_cases(dtypes: list[torch.dtype], layouts: list[str], pixels: int) -> Iterator[Case]:
    for dtype, layout in product(dtypes, layouts):
        make = partial(cases_gram.gram_of_long_sums, dtype, layout, pixels)
        yield Case(named("gram", dtype, layout, pixels), make)


def _special_gram_cases(dtypes: list[torch.dtype], layouts: list[str]) -> Iterator[Case]:
    for key in product(dtypes, layouts):
        yield Case(named("gram", *key, "special"), partial(cases_gram.gram_of_special_numbers, *key))


def _style_cases(dtypes: list[torch.dtype], inputs: list[list[Shape]], many: list[Shape]) -> Iterator[Case]:
    for number, (dtype, distance, shapes) in enumerate(product(dtypes, DISTANCES, inputs)):
        layout = LAYOUTS[number % 2]
        target_batch = shapes[0][0] if number % 3 else 1
        key = (dtype, layout, distance, shapes, target_batch)
        yield Case(named("style", *key), partial(cases_gram.style, *key))
    key = (dtypes[-1], "nchw", "mse", many, 1)
    yield Case(named("style", dtypes[-1], "many layers"), partial(cases_gram.style, *key))


def _symmetrise_cases(dtypes: list[torch.dtype], matrices: list[tuple[int, int]]) -> Iterator[Case]:
    for dtype, matrix in product(dtypes, matrices):
        yield Case(named("symmetrise", dtype, *matrix), partial(cases_gram.symmetrise, dtype, *matrix))


def _gradient_cases(dtypes: list[torch.dtype], layouts: list[str], inputs: list[list[Shape]]) -> Iterator[Case]:
    for number, key in enumerate(product(dtypes, layouts, inputs)):
        name = named("gram_gradient", *key)
        # Every other layer has a gradient already: in turn the first and the second of two.
        others = range((number + number // len(inputs)) % 2, len(key[-1]), 2)
        yield Case(name, partial(cases_gram.gram_gradient, *key, number % 3 > 0, others))
    many = [(1, 8 + number % 3, 3, 5) for number in range(18)]
    key = (dtypes[-1], "nchw", many, True, range(0, 18, 17))
    yield Case(named("gram_gradient", dtypes[-1], "many layers"), partial(cases_gram.gram_gradient, *key))


def _feature_cases(dtypes: list[torch.dtype], distances: list[str], inputs: list[Layers]) -> Iterator[Case]:
    for number, key in enumerate(product(dtypes, distances, WANTED, inputs)):
        dtype, distance, wanted, (batch, layers) = key
        name = named(f"feature_loss{WANTED[wanted]}", dtype, distance, batch, *layers[:5])
        make = partial(cases_pointwise.feature_loss, dtype, distance, wanted, batch, layers)
        yield Case(name, partial(make, upstream=number % 2 == 0))


def _variation_cases(dtypes: list[torch.dtype], images: list[Image]) -> Iterator[Case]:
    for number, key in enumerate(product(dtypes, VARIATIONS, WANTED, ["nchw", "nhwc"], images)):
        dtype, kind, wanted, layout, image = key
        name = named(f"total_variation{WANTED[wanted]}", dtype, kind, layout, *image)
        make = partial(cases_pointwise.total_variation, dtype, kind, wanted, layout, *image)
        yield Case(name, partial(make, upstream=number % 3 > 0))


def _special_cases(dtypes: list[torch.dtype]) -> Iterator[Case]:
    for dtype, distance in product(dtypes, DISTANCES):
        make = partial(cases_pointwise.feature_loss_of_nan, dtype, distance)
        yield Case(named("feature_loss", dtype, distance, "nan"), make)
    for dtype, kind, number in product(dtypes, VARIATIONS, [torch.nan, torch.inf]):
        make = partial(cases_pointwise.total_variation_of, number, dtype, kind)
        yield Case(named("total_variation", dtype, kind, number), make)
