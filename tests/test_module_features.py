"""ModuleFeatures: any module as the trunk."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from perceptual_ops import PerceptualLoss
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
    # And if not, then also where only one of them is asked for: a name means one thing.
    stem = trunk(images)["low"]
    torch.testing.assert_close(ModuleFeatures(trunk, ["mix", "stem.2"])(images, ["mix"]), {"mix": trunk.mix(stem)})
    torch.testing.assert_close(ModuleFeatures(trunk, ["stem.2"])(images), {"stem.2": trunk(images)["low"]})
    # Its ReLU writes over what it returns as "norm"; in the copy it does not.
    assert trunk(images)["norm"].min() == 0 and ModuleFeatures(trunk, ["norm"])(images)["norm"].min() < 0
    with pytest.raises(
        ValueError, match=r"layer 'lo': expected a submodule of DictTrunk or an entry .* close to it: low"
    ):
        ModuleFeatures(trunk, ["lo"])(images)


@dataclasses.dataclass
class Output:
    """As transformers' ModelOutput."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...]


class Stages(NamedTuple):
    low: Tensor
    states: tuple[Tensor, ...]


class Tokens(nn.Module):
    """What networks of today give: tokens behind a class token, vectors, clips, nested outputs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.LayerNorm(6)
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        patches = self.embed(x)
        tokens = torch.cat([patches.mean((2, 3))[:, None], patches.flatten(2).transpose(1, 2)], dim=1)
        states = tokens, self.norm(tokens)
        clip = torch.stack([patches, 2 * patches], dim=2)
        outputs = {
            "tensor": states[1], "list": [states[0], {"clip": clip}], "dict": {"logits": patches.mean((2, 3))},
            "dataclass": Output(patches.mean((2, 3)), states), "named tuple": Stages(patches, states),
            "numbers": {0: patches.mean((2, 3)), 5: {"1": states[0]}},
        }  # fmt: skip
        return outputs[self.kind]


@pytest.mark.parametrize(
    ("kind", "layer", "shape", "as_map"),
    [
        ("tensor", "output", (2, 4, 6), (2, 6, 4, 1)),
        ("tensor", "norm", (2, 4, 6), (2, 6, 4, 1)),
        ("list", "output[0]", (2, 4, 6), (2, 6, 4, 1)),
        ("list", "output[-1][clip]", (2, 6, 2, 2, 2), (2, 6, 4, 2)),
        ("dict", "logits", (2, 6), (2, 6, 1, 1)),
        ("dataclass", "hidden_states[1]", (2, 4, 6), (2, 6, 4, 1)),
        ("dataclass", "output[logits]", (2, 6), (2, 6, 1, 1)),
        ("dataclass", "embed", (2, 6, 2, 2), (2, 6, 2, 2)),
        ("named tuple", "states[1]", (2, 4, 6), (2, 6, 4, 1)),
        ("named tuple", "output[states][0]", (2, 4, 6), (2, 6, 4, 1)),
        ("named tuple", "output[1][0]", (2, 4, 6), (2, 6, 4, 1)),
        ("numbers", "0", (2, 6), (2, 6, 1, 1)),
        ("numbers", "5[1]", (2, 4, 6), (2, 6, 4, 1)),
        ("numbers", "output[5][1]", (2, 4, 6), (2, 6, 4, 1)),
    ],
)
def test_module_outputs_of_every_kind(kind: str, layer: str, shape: tuple[int, ...], as_map: tuple[int, ...]) -> None:
    network = ModuleFeatures(Tokens(kind), [layer], drop_tokens=int(len(shape) == 3))
    feature, found = network(pictures())[layer], network.features(pictures())[layer]
    assert feature.shape == shape and found.shape == as_map
    channels_last = feature.movedim(1, 2) if feature.dim() == 3 else feature
    torch.testing.assert_close(found.flatten(), channels_last.flatten())
    if len(shape) == 3:
        whole = ModuleFeatures(Tokens(kind), [layer])(pictures())[layer]
        assert whole.shape[1] == 5


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("stem.conv", r"layer 'stem.conv': expected a submodule of Trunk or an entry .*; close to it: stem"),
        ("zzzzz", r"layer 'zzzzz': expected a submodule of Trunk .*; known: stem, stem.0, .*pairs, output"),
        ("unused", "layer 'unused': expected a submodule that runs in the forward of Trunk"),
        ("pairs", r"layer 'pairs': expected a floating-point tensor \(N, C\), .*, got a tuple of 2"),
        ("pairs[2]", r"layer 'pairs\[2\]': expected an entry \[2\], got a tuple of 2"),
        ("pairs[1]", r"layer 'pairs\[1\]': expected a floating-point tensor .*, got torch.int64 of shape"),
        ("output[low]", r"layer 'output\[low\]': expected an entry \[low\], got torch.float32 of shape \(2, 36\)"),
    ],
)
def test_module_layers_without_a_feature_are_named(layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModuleFeatures(Trunk(), [layer])(pictures())


def test_module_features_are_of_each_image() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(0, 1)[:, None]

    with pytest.raises(ValueError, match="layer 'output': expected features of each of the 2 images, got 6"):
        ModuleFeatures(Mixed(), ["output"])(pictures())
    with pytest.raises(ValueError, match="layer 'output': expected more than drop_tokens=5 tokens, got 5"):
        ModuleFeatures(Tokens("tensor"), ["output"], drop_tokens=5)(pictures())


def test_tokens_that_are_nowhere_cannot_be_dropped() -> None:
    with pytest.raises(
        ValueError,
        match=r"drop_tokens: expected 0 where no layer gives tokens \(N, T, C\), got 2 for 'stem' of shape "
        r"\(2, 4, 6, 6\), 'output' of shape \(2, 36\); leave it out, or name a layer that gives tokens",
    ):
        ModuleFeatures(Trunk(), ["stem", "output"], drop_tokens=2)(pictures())
    with pytest.raises(ValueError, match="drop_tokens: expected 0 where no layer gives tokens"):
        PerceptualLoss(Trunk(), content_layers=["mix"], drop_tokens=1)(pictures(), pictures())
    both = ModuleFeatures(Tokens("tensor"), ["embed", "norm"], drop_tokens=1)
    assert both(pictures(), ["embed"])["embed"].shape == (2, 6, 2, 2)  # the other layer gives some


class Left(nn.Module):
    """A model of transformers whose config asks for no states."""

    def __init__(self, wrap: Callable[[object], object]) -> None:
        super().__init__()
        self.tokens, self.wrap = Tokens("tensor"), wrap

    def forward(self, x: Tensor) -> object:
        outputs = pytest.importorskip("transformers.modeling_outputs")
        return self.wrap(outputs.BaseModelOutput(last_hidden_state=self.tokens(x)))


@pytest.mark.parametrize(
    ("wrap", "layer", "key"),
    [
        (lambda output: output, "hidden_states[6]", "hidden_states"),
        (lambda output: output, "output[attentions][0]", "attentions"),
        (lambda output: {"vision": output}, "vision[hidden_states][6]", "hidden_states"),
    ],
)
def test_what_a_config_leaves_out_is_asked_for_there(wrap: Callable[[object], object], layer: str, key: str) -> None:
    with pytest.raises(
        ValueError, match=rf"layer .*: expected {key} in the BaseModelOutput that .*, got None; "
    ) as info:
        ModuleFeatures(Left(wrap), [layer])(pictures())
    assert f"set network.config.output_{key} = True before you make the loss" in str(info.value)
    with pytest.raises(ValueError, match=r"expected an entry .*BaseModelOutput with last_hidden_state|close to it"):
        ModuleFeatures(Left(wrap), [layer.replace(key, "hidden_state")])(pictures())


def test_module_layers_are_checked() -> None:
    with pytest.raises(ValueError, match=r"layers: expected some of those .* made for, stem; got 'mix'"):
        ModuleFeatures(Trunk(), ["stem"])(pictures(), ["mix"])
    with pytest.raises(ValueError, match="layers: expected the name of at least one submodule or output, got none"):
        ModuleFeatures(Trunk(), [])
    with pytest.raises(TypeError, match="layers: expected a list of layer names, got the string 'stem'"):
        ModuleFeatures(Trunk(), "stem")
    with pytest.raises(ValueError, match="drop_tokens: expected a whole number of at least 0, got -1"):
        ModuleFeatures(Trunk(), ["stem"], drop_tokens=-1)


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
