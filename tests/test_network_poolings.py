"""The poolings of FeatureNetwork, and the architectures that depend on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual_ops.networks import Conv, FeatureNetwork, Pool, Relu, load_network
from perceptual_ops.networks.weights import random_weights


def pictures(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_average_pooling() -> None:
    network = load_network("vgg11", "random", layers=["relu1_1", "pool1"], pooling="average")
    taps = network(pictures(1, 3, 9, 10))
    torch.testing.assert_close(taps["pool1"], F.avg_pool2d(taps["relu1_1"], 2))


def mirrored(side: int) -> np.ndarray:
    """The pixels 0 .. side - 1 with two more at each end, mirrored at the first and the last: 2 1 0 1 2 ..."""
    reflected = np.abs(np.arange(-2, side + 2))
    return np.minimum(reflected, 2 * (side - 1) - reflected)


@pytest.mark.parametrize("size", [5, 6, 9, 12])
@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_blur_pooling_is_the_filter_written_out(kernel: int, size: int) -> None:
    taps = pooled("blur", size, kernel)
    x = taps["relu1"][0].numpy()
    maxima = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2)).max((3, 4))
    rows, columns = (mirrored(side) for side in maxima.shape[1:])
    padded = maxima[:, rows][:, :, columns]
    expected = np.zeros((len(x), *((side + 1) // 2 + 1 for side in maxima.shape[1:])))
    for i, j in np.ndindex(expected.shape[1:]):
        window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected[:, i, j] = np.einsum("chw,h,w->c", window, [0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    np.testing.assert_allclose(taps["pool1"][0].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("kernel", [2, 3])
def test_l2_pooling_is_the_root_of_the_filtered_squares(kernel: int, size: int) -> None:
    taps = pooled("l2", size, kernel)
    x = np.pad(taps["relu1"][0].numpy(), ((0, 0), (1, 1), (1, 1)))
    expected = np.zeros((len(x), (size + 1) // 2, size // 2 + 1))
    for i, j in np.ndindex(expected.shape[1:]):
        window = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        squares = np.einsum("chw,h,w->c", window**2, [0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
        expected[:, i, j] = np.sqrt(squares + 1e-12)
    np.testing.assert_allclose(taps["pool1"][0].numpy(), expected, rtol=1e-12)


def pooled(pooling: str, size: int, kernel: int) -> dict[str, Tensor]:
    """Maps of five channels before and after a pooling, in fp64."""
    conv = Conv("conv1", 3, 5)
    layers = (conv, Relu("relu1"), Pool("pool1", 5, kernel))
    network = FeatureNetwork("one", layers, ["relu1", "pool1"], pooling)  # type: ignore[arg-type]
    network.load_state_dict(random_weights([conv], seed=2))
    return network.double()(pictures(1, 3, size, size + 1, dtype=torch.float64))


def test_alexnet_with_blurs() -> None:
    """As stlpips has it: the first stride is a blur, too, before the ReLU."""
    network = load_network("alexnet", "random", pooling="blur")
    taps = network(pictures(1, 3, 64, 71))
    sizes = {"conv1": (58, 65), "blur1": (30, 34), "relu1": (30, 34), "pool1": (15, 17), "conv2": (15, 17)}
    sizes |= {"relu2": (15, 17), "pool2": (8, 9), "relu3": (8, 9), "relu5": (8, 9), "pool5": (4, 5)}
    assert {name: tuple(taps[name].shape[2:]) for name in sizes} == sizes
    torch.testing.assert_close(taps["relu1"], taps["blur1"].relu())
    assert taps["blur1"].min() < 0
    plain = load_network("alexnet", "random")
    torch.testing.assert_close(plain.state_dict(), network.state_dict())
    # The convolution without its stride holds the one with it.
    torch.testing.assert_close(plain(pictures(1, 3, 64, 71))["conv1"], taps["conv1"][:, :, ::4, ::4])
