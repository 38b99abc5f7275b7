"""State dicts: the layouts that are known, and what is refused."""

from __future__ import annotations

import pytest
import torch
from state_dicts import LAYOUTS, TORCHVISION, State, assert_loaded, failure, random_state, renamed

from perceptual_ops.networks import load_network


@pytest.fixture(scope="module")
def own() -> State:
    """All of VGG16 under this library's keys."""
    return random_state("vgg16")


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
@pytest.mark.parametrize("shallow", [True, False])
def test_known_layouts(name: str, layout: str, shallow: bool) -> None:
    own = random_state(name)
    others = {"classifier.1.weight": torch.zeros(2, 2, 1, 1), "lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}
    others["net.slice1.1.filt"] = torch.zeros(64, 1, 3, 3)
    layers = {"vgg16": ["relu3_3"], "alexnet": ["relu3"], "squeezenet1_1": ["fire4"]}[name] if shallow else None
    for pooling in ("max", "blur"):
        network = load_network(name, renamed(own, name, layout) | others, layers=layers, pooling=pooling)
        assert_loaded(network, own)
    assert load_network(name, renamed(own, name, layout), layers=layers).pooling == "max"


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1"])
def test_own_layout(name: str) -> None:
    own = random_state(name)
    for pooling in ("max", "blur"):
        assert_loaded(load_network(name, own, pooling=pooling), own)


def test_own_layout_in_any_float_dtype(own: State) -> None:
    assert_loaded(load_network("vgg16", own), own)
    network = load_network("vgg16", {key: value.half() for key, value in own.items()}, layers=["conv1_1"])
    assert network.dtype == torch.float32
    assert_loaded(network, {key: value.half().float() for key, value in own.items()})


def test_missing_and_misshapen_tensors_are_named(own: State) -> None:
    torchvision = renamed(own, "vgg16", "torchvision")
    short = {key: value for key, value in torchvision.items() if key != "features.14.bias"}
    assert failure(ValueError, short) == (
        "the state dict passed as weights: expected 'features.14.bias' (conv3_3 of vgg16), got no such key"
    )
    lpips = {key: value for key, value in renamed(own, "vgg16", "lpips").items() if ".12." not in key}
    assert "expected 'net.slice*.12.weight' (conv3_2 of vgg16)" in failure(ValueError, lpips)
    wide = {**own, "conv2_1.weight": torch.zeros(128, 3, 3, 3)}
    assert failure(ValueError, wide) == (
        "'conv2_1.weight' (conv2_1 of vgg16) in the state dict passed as weights: expected a float tensor of shape "
        "(128, 64, 3, 3), got torch.float32 (128, 3, 3, 3)"
    )
    assert "got torch.int64 (64,)" in failure(ValueError, {**own, "conv1_1.bias": torch.zeros(64, dtype=torch.long)})
    assert ": expected a tensor, got list" in failure(ValueError, {**own, "conv1_1.bias": [0.0] * 64})


def test_a_state_dict_of_another_network_is_refused_although_its_first_layers_fit(own: State) -> None:
    vgg19 = dict(load_network("vgg19", "random").state_dict())
    assert "got 'conv3_4.weight'" in failure(ValueError, vgg19)
    for numbers, foreign in (((0, 2, 5, 7, 10, 12, 14, 16), 16), ((0, 3, 7, 10, 14, 17, 20), 3)):  # VGG19, batch norm
        message = failure(ValueError, {f"features.{n}.weight": torch.zeros(4, 4, 3, 3) for n in numbers})
        assert "expected weights of vgg16" in message and f"got 'features.{foreign}.weight'" in message
    beyond = renamed(own, "vgg16", "its features") | {"31.weight": torch.zeros(1024, 512, 3, 3)}  # SSD's VGG16 goes on
    assert_loaded(load_network("vgg16", beyond), own)


def test_unknown_layout() -> None:
    message = failure(ValueError, {"encoder.w": torch.zeros(1), "encoder.b": torch.zeros(1)})
    assert "expected keys such as features.0.weight, " in message and "got encoder.w, encoder.b" in message
    assert failure(ValueError, {"model": {}, 0: torch.zeros(1)}).endswith("got model, 0")  # a checkpoint around it
    assert failure(ValueError, {}).endswith("got an empty one")


def test_networks_are_not_taken_for_each_other() -> None:
    states = {name: renamed(random_state(name), name, "torchvision") for name in TORCHVISION}
    foreign = {
        ("vgg16", "alexnet"): "features.3.weight", ("vgg16", "squeezenet1_1"): "features.3.squeeze.weight",
        ("alexnet", "vgg16"): "features.2.weight", ("alexnet", "squeezenet1_1"): "features.3.squeeze.weight",
        ("squeezenet1_1", "vgg16"): "features.2.weight", ("squeezenet1_1", "alexnet"): "features.3.weight",
    }  # fmt: skip
    for (name, other), key in foreign.items():
        message = failure(ValueError, states[other], name)
        assert f"expected weights of {name}, whose convolutions are numbered 0, " in message
        assert message.endswith(f"got {key!r}")
    short = {key: value for key, value in states["squeezenet1_1"].items() if key != "features.7.squeeze.bias"}
    lacking = "expected 'features.7.squeeze.bias' (fire5.squeeze of squeezenet1_1), got no such key"
    assert failure(ValueError, short, "squeezenet1_1").endswith(lacking)
    own = random_state("squeezenet1_1") | {"fire2.squeeze.weight": torch.zeros(16, 64, 3, 3)}
    assert failure(ValueError, own, "squeezenet1_1") == (
        "'fire2.squeeze.weight' (fire2.squeeze of squeezenet1_1) in the state dict passed as weights: expected a float "
        "tensor of shape (16, 64, 1, 1), got torch.float32 (16, 64, 3, 3)"
    )
