"""How the Gram matrices of several layers are cut into work items: csrc/gram/plan.h."""

from __future__ import annotations

from collections import Counter

import pytest
from host.build import build
from host.worker import load

HEAD = [(64, 1), (128, 4), (256, 16), (512, 64)]  # channels, how many times fewer pixels than the image


@pytest.fixture(scope="module")
def plan():
    return load(build("plain"), "gram")


def maps_of(batch: int, size: int, layers: list[tuple[int, int]] = HEAD) -> list[tuple[int, ...]]:
    """FeatureMaps of dense NCHW taps of images of `size` squared."""
    return [(batch, c, size**2 // less, c * size**2 // less, size**2 // less, 1) for c, less in layers]


def tiles(channels: int) -> int:
    side = -(-channels // 128)
    return side * (side + 1) // 2


@pytest.mark.parametrize("depth", [64, 32, 16])
@pytest.mark.parametrize(("batch", "size"), [(8, 512), (4, 256), (1, 256), (1, 64), (3, 8), (16, 1024)])
def test_ranges_cover_every_pixel_once(plan, batch: int, size: int, depth: int) -> None:
    maps = maps_of(batch, size)
    for (_, channels, pixels, *_), (count, length) in zip(maps, plan.splits(maps, depth), strict=True):
        assert (count - 1) * length < pixels <= count * length
        assert length % ((4 if channels <= 64 else 2) * depth) == 0  # whole stages, so that lines stay aligned


@pytest.mark.parametrize(
    ("batch", "size", "least", "most"), [(8, 512, 500, 1100), (4, 256, 132, 300), (1, 256, 100, 200)]
)
def test_items_fill_a_device_and_are_alike(plan, batch: int, size: int, least: int, most: int) -> None:
    maps = maps_of(batch, size)
    counts = [n * tiles(c) * count for (n, c, *_), (count, _) in zip(maps, plan.splits(maps, 64), strict=True)]
    assert least <= sum(counts) <= most, counts
    # Stages of 32 KB: four stretches of 64 pixels of a narrow map, two or one of a tile of a wide one.
    stages = [
        length / (256 if c <= 64 else 128 / (2 - 1 / -(-c // 128)))
        for (_, c, *_), (_, length) in zip(maps, plan.splits(maps, 64), strict=True)
    ]
    assert max(stages) <= 3 * min(stages), stages


def test_a_plan_depends_on_nothing_but_the_shapes(plan) -> None:
    nchw = maps_of(2, 96)
    nhwc = [(n, c, p, 2 * c * p, 1, c) for n, c, p, *_ in nchw]
    assert plan.splits(nchw, 64) == plan.splits(nhwc, 64) == plan.splits(nchw, 64)


def test_long_maps(plan) -> None:
    """More pixels than 32 bits could multiply by channels."""
    ((count, length),) = plan.splits([(1, 512, 2**30, 2**30, 1, 512)], 64)
    assert (count - 1) * length < 2**30 <= count * length


@pytest.mark.parametrize("counts", [[1], [0, 3, 0], [5, 1, 40], [200, 96, 96, 80], [64] * 16, [1, 70001]])
def test_every_item_comes_once_and_in_the_order_of_its_layer(plan, counts: list[int]) -> None:
    order = plan.interleaved(counts)
    assert Counter(layer for layer, _ in order) == Counter({i: count for i, count in enumerate(counts) if count})
    for layer, count in enumerate(counts):
        assert [item for of, item in order if of == layer] == list(range(count))


def test_layers_take_turns(plan) -> None:
    """A quarter of the launch has about a quarter of each layer."""
    counts = [200, 96, 96, 80]
    quarter = Counter(layer for layer, _ in plan.interleaved(counts)[: sum(counts) // 4])
    for layer, count in enumerate(counts):
        assert abs(quarter[layer] - count / 4) <= 2 + count / 64
