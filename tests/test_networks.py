"""FeatureNetwork: the numbers, sizes and errors of every architecture, and how they behave as modules."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from peer_torchvision import import_torchvision
from torch import Tensor, nn

from perceptual_ops.networks import (
    ARCHITECTURES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    FeatureNetwork,
    load_network,
)
from perceptual_ops.networks.layers import convolutions_of

VGG_LETTERS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
SHALLOW = ["relu1_2", "conv1_1", "pool1", "conv2_1"]


def pictures(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(actual) == list(expected)
    torch.testing.assert_close(dict(actual), dict(expected))


# ---- numbers ----


def torchvisions(name: str) -> nn.Sequential:
    models = import_torchvision().models
    if name in VGG_LETTERS:  # without a classifier of 500 MB
        return models.vgg.make_layers(models.vgg.cfgs[VGG_LETTERS[name]])
    return getattr(models, name)().features


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("vgg11", (40, 33), "relu4_1"),
        ("vgg13", (40, 33), "relu4_1"),
        ("vgg16", (40, 33), "relu4_1"),
        ("vgg19", (40, 33), "relu4_1"),
        ("alexnet", (63, 78), "pool5"),
        ("alexnet", (97, 64), "relu5"),
        ("squeezenet1_1", (17, 18), "fire9"),
        ("squeezenet1_1", (35, 44), "fire9"),  # 5 and 4 wide before the last pooling: a window beyond the map, and none
    ],
)
def test_every_layer_and_the_gradient_are_torchvisions(name: str, size: tuple[int, int], layer: str) -> None:
    network = load_network(name, "random", seed=3).double()
    for parameter in network.parameters():  # biases too
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
    peer = torchvisions(name).requires_grad_(False).double()
    peer.load_state_dict(dict(zip(peer.state_dict(), network.state_dict().values(), strict=True)))
    images = pictures(1, 3, *size, dtype=torch.float64).requires_grad_()
    peer_images = images.detach().clone().requires_grad_()

    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    x = (peer_images - mean) / std
    expected = {}
    for described, module in zip(ARCHITECTURES[name], peer, strict=True):
        x = expected[described.name] = module(x.clone())  # torchvision's ReLU would write over the convolution's tap
    actual = network(images)

    assert_same(actual, expected)
    assert all(tap.min() < 0 for tapped, tap in actual.items() if tapped.startswith("conv"))
    (gradient,) = torch.autograd.grad(actual[layer].square().sum(), images)
    (peer_gradient,) = torch.autograd.grad(expected[layer].square().sum(), peer_images)
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


@pytest.mark.parametrize(
    ("name", "layer", "chain"),
    [("alexnet", "pool5", True), ("vgg16", "pool5", True), ("squeezenet1_1", "relu1", True),
     ("squeezenet1_1", "pool1", False), ("squeezenet1_1", "fire2", False)],
)  # fmt: skip
def test_what_is_a_chain(name: str, layer: str, chain: bool) -> None:
    assert load_network(name, "random", layers=[layer]).is_chain == chain


# ---- sizes and errors ----


@pytest.mark.parametrize(
    ("name", "pooling", "layer", "smallest"),
    [
        ("vgg11", "max", "relu1_1", 1),
        ("vgg11", "max", "conv5_1", 16),
        ("vgg11", "max", "pool5", 32),
        ("vgg11", "average", "pool2", 4),
        ("vgg11", "blur", "conv2_1", 4),  # 4 pixels have the 3 maxima that can be mirrored by 2
        ("vgg11", "blur", "pool2", 6),  # 6 // 2 + 1 = 4
        ("vgg11", "blur", "pool3", 10),
        ("vgg11", "blur", "pool5", 34),
        ("vgg11", "l2", "pool5", 1),
        ("alexnet", "max", "relu1", 7),
        ("alexnet", "max", "relu2", 15),
        ("alexnet", "max", "relu5", 31),
        ("alexnet", "max", "pool5", 63),
        ("alexnet", "l2", "pool5", 7),
        ("alexnet", "blur", "conv1", 7),
        ("alexnet", "blur", "relu1", 9),
        ("alexnet", "blur", "relu2", 13),
        ("alexnet", "blur", "relu5", 21),
        ("alexnet", "blur", "pool5", 37),
        ("squeezenet1_1", "max", "relu1", 3),
        ("squeezenet1_1", "max", "fire3", 5),  # a window of 3 over the 2 pixels that there are
        ("squeezenet1_1", "max", "fire5", 9),
        ("squeezenet1_1", "average", "fire9", 17),
    ],
)
def test_smallest_size_serves_and_one_pixel_less_is_refused(name: str, pooling: str, layer: str, smallest: int) -> None:
    network = load_network(name, "random", layers=[layer], pooling=pooling)  # type: ignore[arg-type]
    first = {"vgg11": ("conv1_1", 1), "alexnet": ("conv1", 7), "squeezenet1_1": ("conv1", 3)}[name]
    assert network.smallest_size() == network.smallest_size([layer]) == smallest
    assert network.smallest_size([first[0]]) == first[1]
    assert min(network(pictures(1, 3, smallest, smallest))[layer].shape) >= 1
    if smallest > 1:
        least, came = f"{smallest} x {smallest}", f"{smallest} x {smallest - 1}"
        with pytest.raises(ValueError, match=f"^images: .* {least} pixels for {layer} of {name}, got {came}"):
            network(pictures(1, 3, smallest, smallest - 1))


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "vgg11"])
def test_every_smallest_size_is_torchvisions(name: str) -> None:
    network, peer = load_network(name, "random"), torchvisions(name)
    for depth, layer in enumerate(ARCHITECTURES[name], start=1):
        smallest = network.smallest_size([layer.name])
        with torch.no_grad():
            assert peer[:depth](pictures(1, 3, smallest, smallest)).numel() > 0
            if smallest > 1:
                with pytest.raises(RuntimeError):
                    peer[:depth](pictures(1, 3, smallest - 1, smallest - 1))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 3, 8, 8).byte(), TypeError, "images: expected a floating-point tensor, got torch.uint8"),
        (np.zeros((1, 3, 8, 8)), TypeError, "images: expected a floating-point tensor, got ndarray"),
        (torch.zeros(3, 8, 8), ValueError, r"images: expected shape \(N, 3, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8), ValueError, r"images: expected shape \(N, 3, H, W\), got \(1, 1, 8, 8\)"),
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
    with pytest.raises(ValueError, match=r"^layers: .* relu2_1, the last this vgg16 was built for, got relu3_1"):
        network(pictures(1, 3, 8, 8), ["relu3_1"])


def test_a_network_without_weights_is_zero() -> None:
    network = FeatureNetwork("vgg11", ARCHITECTURES["vgg11"], taps=["conv3_2"])
    assert not any(value.any() for value in network.state_dict().values())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"^layers: .* vgg11 \(conv1_1, .*, pool5\), got 'relu1_2'"):
        load_network("vgg11", "random", layers=["relu1_2"])
    with pytest.raises(TypeError, match="layers: expected a list of layer names, got the string 'relu1_1'"):
        load_network("vgg11", "random", layers="relu1_1")
    with pytest.raises(ValueError, match=r"^layers: expected at least one of conv1_1, .*, got none"):
        load_network("vgg11", "random", layers=[])
    with pytest.raises(ValueError, match="pooling: expected one of 'max', 'average', 'blur', 'l2'; got 'l1'"):
        load_network("vgg11", "random", pooling="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mean: expected three numbers, one per channel, got \[0.5\]"):
        load_network("vgg11", "random", mean=[0.5])
    with pytest.raises(ValueError, match="std: expected three numbers above 0"):
        load_network("vgg11", "random", std=[1, 0, 1])
    with pytest.raises(ValueError, match=r"name: expected one of 'vgg11', .*; got 'vgg12'"):
        load_network("vgg12")


# ---- as a module ----


MODULES = [("vgg16", SHALLOW, pooling) for pooling in ("max", "blur", "l2")]
MODULES.append(("squeezenet1_1", ["pool1", "fire3"], "max"))


@pytest.mark.parametrize(("name", "layers", "pooling"), MODULES)
def test_frozen_copyable_and_castable(name: str, layers: list[str], pooling: str) -> None:
    network = load_network(name, "random", layers=layers, pooling=pooling)  # type: ignore[arg-type]
    parent = nn.Sequential(network).train()
    assert parent.training and not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    kept = {f"{conv.name}.{part}" for conv in convolutions_of(network.layers) for part in ("weight", "bias")}
    assert set(network.state_dict()) == kept

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


@pytest.mark.parametrize(("name", "layers", "pooling"), MODULES)
def test_compiles_in_one_graph(name: str, layers: list[str], pooling: str) -> None:
    network = load_network(name, "random", layers=layers, pooling=pooling)  # type: ignore[arg-type]
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    images = pictures(1, 3, 8, 8).requires_grad_()
    actual, expected = compiled(images), network(images)
    assert_same(actual, expected)
    gradients = [torch.autograd.grad(sum(tap.sum() for tap in taps.values()), images) for taps in (actual, expected)]
    torch.testing.assert_close(*gradients)
