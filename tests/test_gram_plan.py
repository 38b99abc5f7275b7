"""How the Gram matrices of several layers, and their gradients, are cut into work for blocks: csrc/gram/plan.h."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import chain

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


SIZES = [(8, 512), (4, 256), (1, 256), (1, 64), (3, 8), (16, 1024)]


def stretches(channels: int, row: int, column: int) -> int:
    """Of `depth` pixels each in a stage."""
    return 4 if channels <= 64 else 2 if row == column else 1


@pytest.mark.parametrize("depth", [64, 32, 16])
@pytest.mark.parametrize(("batch", "size"), SIZES)
def test_pieces_cover_every_pixel_once_and_the_finish_finds_them(plan, batch: int, size: int, depth: int) -> None:
    maps = maps_of(batch, size)
    (_, run_stages, _), runs = plan.runs(maps, depth)
    of_tile = defaultdict(list)
    for layer, n, row, column, first, count, partial in chain.from_iterable(runs):
        of_tile[layer, n, row, column].append((first, count, partial))
    sides = [-(-c // 128) for _, c, *_ in maps]
    assert set(of_tile) == {
        (layer, n, row, column)
        for layer, side in enumerate(sides)
        for n in range(batch)
        for row in range(side)
        for column in range(row + 1)
    }
    taken = set()
    for (layer, n, row, column), pieces in of_tile.items():
        _, channels, pixels, *_ = maps[layer]
        pieces.sort()
        firsts, counts, partials = zip(*pieces, strict=True)
        assert list(firsts) == [sum(counts[:i]) for i in range(len(counts))]
        assert sum(counts) == -(-pixels // (stretches(channels, row, column) * depth))
        first, count, most = plan.partials(maps, depth, layer, n, row, column)
        assert list(partials) == list(range(first, first + count)) and first + count <= most
        taken |= {(layer, partial) for partial in partials}
    assert len(taken) == sum(map(len, of_tile.values()))  # none is shared
    assert max(sum(piece[5] for piece in run) for run in runs) == run_stages


@pytest.mark.parametrize(
    ("batch", "size", "layers", "balance"),
    [(8, 512, HEAD, 0.98), (4, 256, HEAD, 0.96), (1, 256, HEAD, 0.8)]
    + [(8, 512, [layer], 0.95) for layer in HEAD]
    + [(4, 256, [layer], 0.6) for layer in HEAD],
)
def test_waves_are_full(plan, batch: int, size: int, layers: list[tuple[int, int]], balance: float) -> None:
    """Stages over those that the device could make until the last of its 264 blocks at a time is done."""
    (stages, run_stages, waves), runs = plan.runs(maps_of(batch, size, layers), 64)
    assert len(runs) <= waves * 264
    assert stages / (waves * 264 * run_stages) >= balance


def test_waves_have_of_every_layer(plan) -> None:
    (_, _, waves), runs = plan.runs(maps_of(8, 512), 64)
    assert waves > 1
    shares = Counter(piece[0] for run in runs for piece in run for _ in range(piece[5]))
    for wave in range(waves):
        here = Counter(
            piece[0] for run in runs[264 * wave : 264 * (wave + 1)] for piece in run for _ in range(piece[5])
        )
        for layer, share in shares.items():
            assert abs(here[layer] - share / waves) <= 0.1 * share / waves


def test_a_plan_depends_on_nothing_but_the_shapes(plan) -> None:
    nchw = maps_of(2, 96)
    nhwc = [(n, c, p, 2 * c * p, 1, c) for n, c, p, *_ in nchw]
    assert plan.runs(nchw, 64) == plan.runs(nhwc, 64) == plan.runs(nchw, 64)


def test_long_maps(plan) -> None:
    """More pixels than 32 bits could multiply by channels; more stages than 32 bits can count."""
    long = (1, 512, 2**30, 2**30, 1, 512)
    (stages, _, _), runs = plan.runs([long], 64)
    assert stages == 4 * 2**23 + 6 * 2**24 == sum(piece[5] for run in runs for piece in run)
    with pytest.raises(OverflowError):
        plan.runs([(32, *long[1:])], 64)
    with pytest.raises(OverflowError):
        plan.runs([(1, 1, 2**40, 2**40, 1, 1)], 64)


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
