"""Which cases of LPIPS run: all of them, or few small ones; see suite.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from maps import DTYPES

from host import cases_lpips as cases
from host.cases import Case, named
from host.cases_lpips import WANTED, Layer

Layers = tuple[int, list[Layer]]

LAYOUTS = ["nhwc", "nchw"]
# (N, layers). Of NHWC maps: lanes with two, three and four packs, alone and in teams, several blocks and tails; of NCHW
# maps packs of pixels. Gaps, one target for all.
PACKED: list[Layers] = [
    (2, [(64, 9, 16, 2, 0, 0), (16, 3, 40, 1, 16, 8), (48, 2, 8, 2, 8, 0), (192, 4, 4, 1, 0, 0)]),
    (2, [(512, 2, 12, 2, 0, 0), (256, 3, 8, 1, 0, 16)]),
]
# Singles: channels and pixels that come in no packs, maps that begin between them, gaps; channels held and read again.
ODD: list[Layers] = [
    (3, [(5, 7, 11, 3, 0, 0), (3, 1, 1, 1, 0, 0), (64, 2, 3, 3, 1, 0), (70, 3, 5, 1, 0, 3)]),
    (1, [(4, 1, 9, 1, 0, 0)]),
]
MANY: Layers = (2, [(4 + number % 5, 1, 2 + number % 3, 1 + number % 2, 0, 0) for number in range(35)])
SMALL: list[Layers] = [
    (2, [(64, 3, 24, 2, 8, 0), (48, 1, 9, 1, 0, 8), (70, 3, 5, 2, 0, 1)]),
    (2, [(512, 1, 8, 1, 0, 0), (136, 5, 8, 2, 0, 0)]),
]
# eps and whether it is inside of the root; large enough to show.
NORMS = [(0.25, False), (0.5, True), (1e-10, False)]


def lpips_cases() -> list[Case]:
    return [
        *_cases(DTYPES, [*PACKED, *ODD]),
        *_cases(DTYPES[:1], [MANY]),
        *_weight_cases(DTYPES),
        *_special_cases(DTYPES),
    ]


def small_lpips_cases() -> list[Case]:
    dtypes = [torch.float32, torch.bfloat16]
    return [*_cases(dtypes, SMALL), *_cases(dtypes[:1], [MANY], LAYOUTS[:1]), *_weight_cases(dtypes[:1])]


def _cases(dtypes: list[torch.dtype], inputs: list[Layers], layouts: list[str] = LAYOUTS) -> Iterator[Case]:
    for number, (dtype, launcher, layout, (batch, layers)) in enumerate(product(dtypes, WANTED, layouts, inputs)):
        choices = WANTED[launcher]
        wanted = choices[number // 3 % len(choices)]
        norm = NORMS[number % 3]
        name = named(launcher, dtype, layout, wanted.by, batch, *layers[:4], *norm)
        make = partial(cases.lpips, dtype, wanted, layout, batch, layers, *norm)
        yield Case(name, partial(make, upstream=number % 4 > 0))


def _weight_cases(dtypes: list[torch.dtype]) -> Iterator[Case]:
    """Weights that begin between packs."""
    for dtype in dtypes:
        key = (dtype, WANTED["lpips"][0], "nhwc", 2, [(64, 2, 3, 2, 0, 0)], *NORMS[0])
        yield Case(named("lpips", dtype, "weights"), partial(cases.lpips, *key, upstream=False, before_weights=1))


def _special_cases(dtypes: list[torch.dtype]) -> Iterator[Case]:
    for dtype, layout in product(dtypes, LAYOUTS):
        yield Case(named("lpips_with_gradient", dtype, layout, "equals"), partial(cases.lpips_of_equals, dtype, layout))
        for by in ("x", "y"):
            make = partial(cases.lpips_of_nan, dtype, layout, by)
            yield Case(named("lpips_with_gradient", dtype, layout, by, "nan"), make)
