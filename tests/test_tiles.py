"""Tiles of large images: their maps are those of the whole, each pixel once."""

from __future__ import annotations

import pytest
import torch

from perceptual_ops.engine.batching import default_tile_side
from perceptual_ops.engine.tiles import cut_of, tiles_of
from perceptual_ops.networks import FeatureNetwork, load_network

SIZES = ((97, 131), (64, 128), (65, 200), (40, 33))


def network_of(name: str, pooling: str) -> tuple[FeatureNetwork, str]:
    """A network in fp64, with biases, and its cut."""
    network = load_network(name, "random", pooling=pooling).double()
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
    cut = cut_of(network.layers, [network.layers[-1].name])
    assert cut is not None
    return network, cut


@pytest.fixture(
    scope="module",
    params=[("vgg13", "max"), ("vgg13", "average"), ("vgg13", "blur"), ("vgg13", "l2"), ("alexnet", "blur")],
    ids=str,
)
def network_and_cut(request: pytest.FixtureRequest) -> tuple[FeatureNetwork, str]:
    return network_of(*request.param)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_maps_are_those_of_the_whole(network_and_cut: tuple[FeatureNetwork, str], size: tuple[int, int]) -> None:
    network, cut = network_and_cut
    names = [layer.name for layer in network.layers]
    shallow = network.layers[: names.index(cut) + 1]
    wanted = names[: len(shallow)]
    images = torch.rand((1, 3, *size), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = network.features(images, wanted)
    found = {layer: torch.zeros_like(x) for layer, x in whole.items()}
    times = {layer: torch.zeros_like(x) for layer, x in whole.items()}
    tiles = tiles_of(shallow, wanted, size, side=32)
    assert len(tiles) == round(size[0] / 32) * round(size[1] / 32)
    for tile in tiles:
        for layer, x in network.features(images[tile.image].clone(), wanted).items():
            found[layer][tile.whole(layer)] = x[tile.part(layer)]
            times[layer][tile.whole(layer)] += 1
            assert tile.size(layer) == whole[layer].shape[2:]
    for layer in wanted:
        assert torch.equal(times[layer], torch.ones_like(times[layer])), layer
        torch.testing.assert_close(found[layer], whole[layer], rtol=1e-12, atol=1e-12)


def test_a_tile_brings_no_more_than_its_windows_reach() -> None:
    network, cut = network_of("vgg13", "max")
    shallow = network.layers[: [layer.name for layer in network.layers].index(cut) + 1]
    tiles = tiles_of(shallow, [cut], (512, 512), side=128)
    assert tiles[5].image[1] == slice(128 - 8, 256 + 6)  # 6 pixels on each side, and a start that is a multiple of 4
    sizes = {tuple(side.stop - side.start for side in tile.image[1:]) for tile in tiles}
    assert tiles[0].image[1:] == (slice(0, 128 + 6), slice(0, 128 + 6))  # none beyond the image's ends
    assert tiles[-1].image[1:] == (slice(384 - 8, 512), slice(384 - 8, 512))
    assert len(sizes) == 9  # at most, so that what a convolution prepares for a size serves several


def test_where_networks_are_cut() -> None:
    vgg, alex, blurred = (
        load_network(name, "random", pooling=pooling).layers
        for name, pooling in (("vgg16", "max"), ("alexnet", "max"), ("alexnet", "blur"))
    )
    assert cut_of(vgg, ["relu1_2", "relu5_3"]) == "pool2"
    assert cut_of(vgg, ["relu1_2", "pool2"]) is None  # nothing is left to run at once
    assert cut_of(alex, ["relu5"]) is None  # a quarter of the image's size after one convolution
    assert cut_of(blurred, ["relu5"]) == "pool1"


def test_default_side() -> None:
    def side(*size: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> int | None:
        return default_tile_side(*size, dtype, device)

    assert [side(256, 256), side(256, 512), side(256, 513), side(1080, 1920)] == [None, None, 256, 256]
    assert [side(1080, 1920, dtype=torch.bfloat16), side(256, 513, dtype=torch.bfloat16)] == [362, None]
    assert [side(1080, 1920, device="cuda"), side(2160, 3840, device="cuda")] == [None, 1448]
