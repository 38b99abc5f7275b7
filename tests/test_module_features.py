"""ModuleFeatures: any module as the trunk."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from perceptual_ops.networks import ModuleFeatures


def pictures(seed: int = 1) -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


class Trunk(nn.Module):
    """What users bring: in-place activations, an in-place function, a shared and an unused submodule, odd outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.mix = nn.Conv2d(4, 4, 1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.flat = nn.Flatten()
        self.pairs = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        mixed = self.mix(x)
        mixed += x
        return self.flat(self.pairs(mixed)[0])


class DictTrunk(Trunk):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        conv, norm, relu = self.stem
        normed = norm(conv(x))
        stem = relu(normed)
        return {"norm": normed, "low": stem, "mix": 2 * self.mix(stem)}


def test_module_taps_are_what_the_submodules_returned() -> None:
    trunk = Trunk()
    images = pictures()
    conv, norm, relu = trunk.stem
    layers = ["mix", "stem.0", "stem.1", "stem"]
    network = ModuleFeatures(trunk, layers)
    with torch.no_grad():
        convolved = conv(images)
        normed = copy.deepcopy(norm).eval()(convolved)
        expected = {"mix": trunk.mix(normed.relu()), "stem.0": convolved, "stem.1": normed, "stem": normed.relu()}
    assert convolved.min() < 0 and normed.min() < 0
    assert list(network(images)) == layers
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(network.features(images, ["stem"]), {"stem": expected["stem"]})
    with torch.inference_mode():
        torch.testing.assert_close(network(images), expected)
    # The caller's module is as it was.
    assert relu.inplace and trunk.training and conv.weight.requires_grad and not conv._forward_hooks


def test_module_that_returns_a_dict() -> None:
    trunk = DictTrunk().eval()
    images = pictures()
    # "mix" is a submodule too: what the module returns goes first, if it has all the layers wanted.
    torch.testing.assert_close(
        ModuleFeatures(trunk, ["mix", "low"])(images), {name: trunk(images)[name] for name in ("mix", "low")}
    )
    torch.testing.assert_close(ModuleFeatures(trunk, ["mix", "stem.2"])(images, ["mix"]), {"mix": trunk(images)["mix"]})
    torch.testing.assert_close(ModuleFeatures(trunk, ["stem.2"])(images), {"stem.2": trunk(images)["low"]})
    # Its ReLU writes over what it returns as "norm"; in the copy it does not.
    assert trunk(images)["norm"].min() == 0 and ModuleFeatures(trunk, ["norm"])(images)["norm"].min() < 0
    with pytest.raises(ValueError, match="DictTrunk has no submodule 'lo' and returns none; close to it: low"):
        ModuleFeatures(trunk, ["lo"])(images)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("stem.conv", r"Trunk has no submodule 'stem.conv' and returns none; close to it: stem"),
        ("zzzzz", r"Trunk has no submodule 'zzzzz' and returns none; submodules: stem, stem.0, .*pairs"),
        ("unused", "layer 'unused' did not run in the forward of Trunk"),
        ("flat", r"layer 'flat' must give a 4-d float tensor, got torch.float32 of shape \(2, 36\)"),
        ("pairs", "layer 'pairs' must give a 4-d float tensor, got tuple"),
    ],
)
def test_module_layers_without_a_feature_are_named(layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModuleFeatures(Trunk(), [layer])(pictures())


def test_module_layers_are_checked() -> None:
    with pytest.raises(ValueError, match="layer 'mix' was not among the layers of this ModuleFeatures"):
        ModuleFeatures(Trunk(), ["stem"])(pictures(), ["mix"])
    with pytest.raises(ValueError, match="layers must name at least one submodule"):
        ModuleFeatures(Trunk(), [])
    with pytest.raises(TypeError, match="layers must be a list of layer names, got the string 'stem'"):
        ModuleFeatures(Trunk(), "stem")


def test_module_is_frozen_and_copyable() -> None:
    network = ModuleFeatures(Trunk(), ["stem.0", "mix"])
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = pictures()
    expected = network(images)
    torch.testing.assert_close(copy.deepcopy(network)(images), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(network))(images), expected)


def test_module_compiles_in_one_graph_for_all_threads() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph

    network = ModuleFeatures(Trunk(), ["stem.0", "mix"])
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    images = pictures().requires_grad_()
    expected = network(images)
    (gradient,) = torch.autograd.grad(expected["mix"].square().sum(), images)
    for _ in range(2):
        with ThreadPoolExecutor(1) as fresh_thread:
            for actual in fresh_thread.map(compiled, [images, images]):
                torch.testing.assert_close(actual, expected)
                torch.testing.assert_close(torch.autograd.grad(actual["mix"].square().sum(), images), (gradient,))
    assert len(graphs) == 1


MEETING = threading.Barrier(2, timeout=600)


class Meet(nn.Module):
    """Lets two threads pass it only together, so that their forwards overlap."""

    def forward(self, x: Tensor) -> Tensor:
        MEETING.wait()
        return x


def test_concurrent_forwards_do_not_meet() -> None:
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    network = ModuleFeatures(nn.Sequential(first, Meet(), second, Meet()), ["0", "2"])
    pair = [pictures(1), pictures(2)]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(network, pair))
    for images, taps in zip(pair, results, strict=True):
        torch.testing.assert_close(taps, {"0": first(images), "2": second(first(images))})
