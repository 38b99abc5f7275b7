"""FeatureNetwork: the numbers, sizes and errors of the VGGs, and how they behave as modules."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peer_torchvision import import_torchvision
from torch import Tensor, nn

from perceptual_ops.networks import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD, FeatureNetwork, load_network

SHALLOW = ["relu1_2", "conv1_1", "pool1", "conv2_1"]


def pictures(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(actual) == list(expected)
    torch.testing.assert_close(dict(actual), dict(expected))


# ---- numbers ----


@pytest.mark.parametrize(("name", "letter"), [("vgg11", "A"), ("vgg13", "B"), ("vgg16", "D"), ("vgg19", "E")])
def test_every_layer_and_the_gradient_are_torchvisions(name: str, letter: str) -> None:
    vgg = import_torchvision().models.vgg
    network = load_network(name, "random", seed=3)
    peer = vgg.make_layers(vgg.cfgs[letter]).requires_grad_(False)
    peer.load_state_dict(dict(zip(peer.state_dict(), network.state_dict().values(), strict=True)))
    images = pictures(1, 3, 40, 33).requires_grad_()
    peer_images = images.detach().clone().requires_grad_()

    x = (peer_images - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    expected = {}
    for layer, module in zip(ARCHITECTURES[name], peer, strict=True):
        x = expected[layer.name] = module(x.clone())  # torchvision's ReLU would write over the convolution's tap
    actual = network(images)

    assert_same(actual, expected)
    assert all(tap.min() < 0 for layer, tap in actual.items() if layer.startswith("conv"))
    (gradient,) = torch.autograd.grad(actual["relu4_1"].square().sum(), images)
    (peer_gradient,) = torch.autograd.grad(expected["relu4_1"].square().sum(), peer_images)
    torch.testing.assert_close(gradient, peer_gradient)


def test_a_tap_is_the_same_whichever_others_are_asked_for() -> None:
    network = load_network("vgg11", "random", layers=SHALLOW[1:])
    images = pictures(2, 3, 16, 16)
    together = network(images, ["conv2_1", "relu1_1", "conv1_1", "pool1"])
    assert list(together) == ["conv2_1", "relu1_1", "conv1_1", "pool1"]
    for layer, tap in together.items():
        assert_same(network(images, [layer]), {layer: tap})
    assert list(network(images)) == SHALLOW[1:]


def test_images_are_normalised_in_fp32_and_cast_to_the_networks_dtype() -> None:
    network = load_network("vgg11", "random", layers=["conv1_1"], mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    reference = copy.deepcopy(network).double()
    images = pictures(1, 3, 8, 8, dtype=torch.float64)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (network.mean, network.std))
    expected = reference.features((images - mean) / std)["conv1_1"]

    torch.testing.assert_close(reference(images)["conv1_1"], expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(network(images.float())["conv1_1"], expected.float())
    network.to(torch.bfloat16)
    normalised = ((images.to(torch.bfloat16).double() - mean) / std).to(torch.bfloat16)
    assert network(images.to(torch.bfloat16))["conv1_1"].equal(network.features(normalised)["conv1_1"])
    assert network.dtype == torch.bfloat16


def test_average_pooling() -> None:
    network = load_network("vgg11", "random", layers=["relu1_1", "pool1"], pooling="average")
    taps = network(pictures(1, 3, 9, 10))
    assert_same({"pool1": taps["pool1"]}, {"pool1": F.avg_pool2d(taps["relu1_1"], 2)})


def mirrored(side: int) -> np.ndarray:
    """The pixels 0 .. side - 1 with two more at each end, mirrored at the first and the last: 2 1 0 1 2 ..."""
    reflected = np.abs(np.arange(-2, side + 2))
    return np.minimum(reflected, 2 * (side - 1) - reflected)


@pytest.mark.parametrize("size", [4, 5, 6, 9, 12])
def test_blur_pooling_is_the_filter_written_out(size: int) -> None:
    network = load_network("vgg11", "random", layers=["relu1_1", "pool1"], pooling="blur")
    taps = network(pictures(1, 3, size, size + 1))
    x = taps["relu1_1"][0].double().numpy()
    maxima = np.maximum(np.maximum(x[:, :-1, :-1], x[:, 1:, :-1]), np.maximum(x[:, :-1, 1:], x[:, 1:, 1:]))
    rows, columns = (mirrored(side) for side in maxima.shape[1:])
    padded = maxima[:, rows][:, :, columns]
    expected = np.zeros((len(x), size // 2 + 1, (size + 1) // 2 + 1))
    for i, j in np.ndindex(expected.shape[1:]):
        window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected[:, i, j] = np.einsum("chw,h,w->c", window, [0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    assert taps["pool1"].shape[1:] == expected.shape
    np.testing.assert_allclose(taps["pool1"][0].numpy(), expected, atol=1e-5)


# ---- sizes and errors ----


@pytest.mark.parametrize(
    ("pooling", "layer", "smallest"),
    [
        ("max", "relu1_1", 1),
        ("max", "conv5_1", 16),
        ("max", "pool5", 32),
        ("average", "pool2", 4),
        ("blur", "conv2_1", 4),  # 4 pixels have the 3 maxima that can be mirrored by 2
        ("blur", "pool2", 6),  # 6 // 2 + 1 = 4
        ("blur", "pool3", 10),
        ("blur", "pool5", 34),
    ],
)
def test_smallest_size_serves_and_one_pixel_less_is_refused(pooling: str, layer: str, smallest: int) -> None:
    network = load_network("vgg11", "random", layers=[layer], pooling=pooling)  # type: ignore[arg-type]
    assert network.smallest_size() == network.smallest_size([layer]) == smallest
    assert network.smallest_size(["conv1_1"]) == 1
    assert min(network(pictures(1, 3, smallest, smallest))[layer].shape) >= 1
    if smallest > 1:
        least, came = f"{smallest} x {smallest}", f"{smallest} x {smallest - 1}"
        with pytest.raises(ValueError, match=f"images must be at least {least} for {layer} of vgg11, got {came}"):
            network(pictures(1, 3, smallest, smallest - 1))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 3, 8, 8).byte(), TypeError, "images must be a floating-point tensor, got torch.uint8"),
        (np.zeros((1, 3, 8, 8)), TypeError, "images must be a floating-point tensor, got ndarray"),
        (torch.zeros(3, 8, 8), ValueError, r"images must have shape \(N, 3, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8), ValueError, r"images must have shape \(N, 3, H, W\), got \(1, 1, 8, 8\)"),
    ],
)
def test_images_of_another_kind_are_refused(images: Tensor, error: type[Exception], message: str) -> None:
    network = load_network("vgg11", "random", layers=["conv1_1"])
    for call in (network, network.features):
        with pytest.raises(error, match=message):
            call(images)


def test_layers_beyond_the_deepest_tap_are_not_built() -> None:
    network = load_network("vgg16", "random", layers=["relu2_1", "conv1_2"])
    names = ["conv1_1", "conv1_2", "conv2_1"]
    assert list(network.state_dict()) == [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    assert [layer.name for layer in network.layers][-1] == "relu2_1"
    assert "conv2_2" not in dict(network.named_modules())
    with pytest.raises(ValueError, match="layer relu3_1 is deeper than relu2_1, the last this vgg16 was built for"):
        network(pictures(1, 3, 8, 8), ["relu3_1"])


def test_a_network_without_weights_is_zero() -> None:
    network = FeatureNetwork("vgg11", ARCHITECTURES["vgg11"], taps=["conv3_2"])
    assert not any(value.any() for value in network.state_dict().values())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"vgg11 has no layer 'relu1_2'; its layers are conv1_1, relu1_1, .*, pool5"):
        load_network("vgg11", "random", layers=["relu1_2"])
    with pytest.raises(TypeError, match="layers must be a list of layer names, got the string 'relu1_1'"):
        load_network("vgg11", "random", layers="relu1_1")
    with pytest.raises(ValueError, match="layers must name at least one layer of vgg11"):
        load_network("vgg11", "random", layers=[])
    with pytest.raises(ValueError, match="pooling must be one of max, average, blur, got 'l2'"):
        load_network("vgg11", "random", pooling="l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mean must be three numbers, one per channel, got \[0.5\]"):
        load_network("vgg11", "random", mean=[0.5])
    with pytest.raises(ValueError, match="std must be above 0"):
        load_network("vgg11", "random", std=[1, 0, 1])
    with pytest.raises(ValueError, match="network must be one of vgg11, vgg13, vgg16, vgg19, got 'vgg12'"):
        load_network("vgg12")


# ---- as a module ----


@pytest.mark.parametrize("pooling", ["max", "blur"])
def test_frozen_copyable_and_castable(pooling: str) -> None:
    network = load_network("vgg16", "random", layers=SHALLOW, pooling=pooling)  # type: ignore[arg-type]
    parent = nn.Sequential(network).train()
    assert parent.training and not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(key.startswith("conv") for key in network.state_dict())

    images = pictures(2, 3, 12, 12)
    expected = network(images)
    assert_same(copy.deepcopy(network)(images), expected)
    assert_same(pickle.loads(pickle.dumps(network))(images), expected)
    channels_last = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    taps = channels_last(images.to(memory_format=torch.channels_last))
    assert_same(taps, expected)
    assert all(tap.is_contiguous(memory_format=torch.channels_last) for tap in taps.values())
    assert {tap.dtype for tap in network.to(torch.bfloat16)(images).values()} == {torch.bfloat16}
    assert all(len(tap) == 0 for tap in network(images[:0]).values())


@pytest.mark.parametrize("pooling", ["max", "blur"])
def test_compiles_in_one_graph(pooling: str) -> None:
    network = load_network("vgg16", "random", layers=SHALLOW, pooling=pooling)  # type: ignore[arg-type]
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    images = pictures(1, 3, 8, 8).requires_grad_()
    actual, expected = compiled(images), network(images)
    assert_same(actual, expected)
    gradients = [torch.autograd.grad(sum(tap.sum() for tap in taps.values()), images) for taps in (actual, expected)]
    torch.testing.assert_close(*gradients)
