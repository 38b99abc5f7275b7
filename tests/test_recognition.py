"""Sequences of plain layers are recognised and run as chains with the numbers of the module; nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from maps import assert_accurate
from peers import features
from placement import placed
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import perceptual_ops as po
from perceptual_ops.networks import ModuleFeatures
from perceptual_ops.networks.hooks import HOOKS
from perceptual_ops.networks.recognition import recognized

TORCHVISION = {
    "vgg16": ["1", "2", "8", "15", "16", "22"],
    "vgg16_bn": ["1", "5", "6", "8", "22"],
    "alexnet": ["0", "2", "4", "11"],
}


def images(batch: int = 2, size: int = 32, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return placed(torch.rand((batch, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=dtype))


def norm(channels: int, **settings: bool) -> nn.BatchNorm2d:
    """A normalisation that has seen something."""
    found = nn.BatchNorm2d(channels, **settings)
    drawn = torch.Generator().manual_seed(channels)
    for tensor in found.state_dict().values():
        if tensor.dim():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=drawn))
    return found


def sequence(*modules: nn.Module) -> nn.Sequential:
    """The modules with weights that keep their maps alive."""
    found = nn.Sequential(*modules)
    for module in found.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=torch.Generator().manual_seed(module.in_channels))
    return found


def of_torchvision(name: str, dtype: torch.dtype) -> nn.Sequential:
    module = features(name)
    for number, child in enumerate(module):
        if isinstance(child, nn.BatchNorm2d):
            module[number] = norm(child.num_features)
    return placed(module.to(dtype).eval())


def value_and_gradient(maps: Callable[[Tensor], dict[str, Tensor]], targets: dict[str, Tensor], x: Tensor):
    x = x.clone().requires_grad_()
    loss = sum((maps(x)[layer] - target).square().mean() for layer, target in targets.items())
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def assert_same_as_the_module(module: nn.Module, layers: list[str], size: int = 32) -> None:
    """Value and gradient in fp64, by both engines, are autograd's on the module itself."""
    module = placed(module.double())
    criterion = po.PerceptualLoss(module, content_layers=layers, chunk_size=1, reduction="sum")
    assert criterion._trunk is not None
    oracle = ModuleFeatures(module, layers)
    x, target = images(1, size), images(1, size, seed=1)
    with torch.no_grad():
        targets = oracle(target)
    value, gradient = value_and_gradient(oracle, targets, x)
    for engine in ("lean", "autograd"):
        criterion.engine = engine
        leaf = x.clone().requires_grad_()
        loss = criterion(leaf, target)
        torch.testing.assert_close(loss, value, rtol=1e-9, atol=0)
        (found,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-9 * float(gradient.abs().max()))


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.usefixtures("library", "on_device")
def test_torchvisions_features(name: str) -> None:
    assert_same_as_the_module(of_torchvision(name, torch.float64), TORCHVISION[name], 64 if name == "alexnet" else 32)


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.usefixtures("on_device")
def test_fp32_is_within_the_policy(name: str) -> None:
    module, layers = of_torchvision(name, torch.float32), TORCHVISION[name]
    network = recognized(module, layers)
    assert network is not None and network.dtype == torch.float32
    x = images(1, 64, torch.float32)
    with torch.no_grad():
        ours, naive = network(x), ModuleFeatures(module, layers)(x)
        exact = ModuleFeatures(copy.deepcopy(module).double(), layers)(x.double())
    for layer in layers:
        assert_accurate(ours[layer], naive[layer], exact[layer])


CONV, RELU, POOL = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
SEQUENCES: dict[str, tuple[Callable[[], nn.Sequential], list[str]]] = {
    "a convolution": (lambda: sequence(nn.Conv2d(3, 4, 3)), ["0"]),
    "in place, before and after": (
        lambda: sequence(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3)), ["0", "1", "2"]
    ),
    "nested": (
        lambda: sequence(sequence(CONV, RELU), sequence(sequence(nn.Conv2d(4, 5, 3), nn.ReLU()), POOL)),
        ["0.0", "0", "1.0", "1.1"],
    ),
    "no bias": (lambda: sequence(nn.Conv2d(3, 4, 5, stride=2, padding=2, bias=False), RELU), ["0", "1"]),
    "paddings by name": (
        lambda: sequence(nn.Conv2d(3, 4, 5, padding="same"), nn.Conv2d(4, 4, 3, padding="valid")), ["0", "1"]
    ),
    "much padding": (lambda: sequence(nn.Conv2d(3, 4, 2, padding=3), RELU), ["1"]),
    "both poolings": (
        lambda: sequence(CONV, RELU, POOL, nn.Conv2d(4, 4, 3), nn.AvgPool2d(3, stride=2), nn.MaxPool2d(5, 1)),
        ["1", "2", "4", "5"],
    ),
    "nothing in eval mode": (
        lambda: sequence(CONV, nn.Dropout(), nn.Identity(), RELU, nn.Dropout2d(), nn.Sequential()), ["2", "5"]
    ),
    "norm": (lambda: sequence(CONV, norm(4), RELU), ["1", "2"]),
    "norm without weights": (lambda: sequence(CONV, norm(4, affine=False), RELU), ["2"]),
    "two norms": (lambda: sequence(nn.Conv2d(3, 4, 3, bias=False), norm(4), nn.Identity(), norm(4)), ["3"]),
    "norm of a nested convolution": (lambda: sequence(sequence(CONV), norm(4), POOL), ["1", "2"]),
    "anything beyond the deepest": (lambda: sequence(CONV, RELU, nn.Flatten(), nn.Linear(4096, 2)), ["1"]),
    "tied weights": (lambda: tied(), ["3"]),
}  # fmt: skip


def tied() -> nn.Sequential:
    found = sequence(CONV, nn.Conv2d(4, 4, 3), RELU, nn.Conv2d(4, 4, 3))
    found[3].weight = found[1].weight
    return found


@pytest.mark.parametrize("case", SEQUENCES)
@pytest.mark.usefixtures("library", "on_device")
def test_sequences_of_ones_own(case: str) -> None:
    make, layers = SEQUENCES[case]
    assert_same_as_the_module(copy.deepcopy(make()), layers)


class Sub(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Conv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


def with_(change: Callable[[nn.Sequential], object], *modules: nn.Module) -> nn.Sequential:
    found = copy.deepcopy(sequence(*(modules or (CONV, RELU, POOL))))
    change(found)
    return found


def replaced_forward(module: nn.Sequential) -> None:
    module[1].forward = lambda x: x + 1  # type: ignore[method-assign]


def half_of_it(module: nn.Sequential) -> None:
    module[0].half()


REFUSED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "no Sequential": (lambda: Conv(3, 4, 3), [""]),
    "a subclass": (lambda: Sub(CONV, RELU), ["1"]),
    "a nested subclass": (lambda: nn.Sequential(CONV, Sub(RELU)), ["1"]),
    "a subclass of a layer": (lambda: nn.Sequential(Conv(3, 4, 3), RELU), ["1"]),
    "another layer": (lambda: nn.Sequential(CONV, nn.LeakyReLU(), RELU), ["2"]),
    "a layer that is not there": (lambda: nn.Sequential(CONV, RELU), ["1", "2"]),
    "two names of one output": (lambda: nn.Sequential(CONV, nn.Identity()), ["0", "1"]),
    "a module twice": (lambda: nn.Sequential(CONV, RELU, nn.Conv2d(4, 4, 3), RELU), ["3"]),
    "grey images": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), RELU), ["1"]),
    "no convolution first": (lambda: nn.Sequential(nn.ReLU(), CONV), ["1"]),
    "an identity first": (lambda: nn.Sequential(nn.Identity(), CONV), ["1"]),
    "oblong kernel": (lambda: nn.Sequential(nn.Conv2d(3, 4, (3, 1))), ["0"]),
    "oblong stride": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=(1, 2))), ["0"]),
    "oblong padding": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=(1, 0))), ["0"]),
    "lopsided padding": (lambda: nn.Sequential(nn.Conv2d(3, 4, 4, padding="same")), ["0"]),
    "mirrored padding": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), ["0"]),
    "dilation": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2)), ["0"]),
    "groups": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)), ["0"]),
    "pooling with padding": (lambda: nn.Sequential(CONV, nn.MaxPool2d(3, padding=1)), ["1"]),
    "pooling with dilation": (lambda: nn.Sequential(CONV, nn.MaxPool2d(3, dilation=2)), ["1"]),
    "pooling with ceil": (lambda: nn.Sequential(CONV, nn.MaxPool2d(3, ceil_mode=True)), ["1"]),
    "pooling with indices": (lambda: nn.Sequential(CONV, nn.MaxPool2d(3, return_indices=True), nn.ReLU()), ["1"]),
    "pooling over other numbers": (lambda: nn.Sequential(CONV, nn.AvgPool2d(3, divisor_override=2)), ["1"]),
    "average with padding": (lambda: nn.Sequential(CONV, nn.AvgPool2d(3, padding=1)), ["1"]),
    "oblong pooling": (lambda: nn.Sequential(CONV, nn.AvgPool2d((3, 2))), ["1"]),
    "large pooling": (lambda: nn.Sequential(CONV, nn.MaxPool2d(16)), ["1"]),
    "adaptive pooling": (lambda: nn.Sequential(CONV, nn.AdaptiveAvgPool2d(3)), ["1"]),
    "statistics of the batch": (lambda: nn.Sequential(CONV, norm(4, track_running_stats=False)), ["1"]),
    "norm of a tapped convolution": (lambda: nn.Sequential(CONV, norm(4), nn.ReLU()), ["0", "2"]),
    "norm after a ReLU": (lambda: nn.Sequential(CONV, nn.ReLU(), norm(4)), ["2"]),
    "norm first": (lambda: nn.Sequential(norm(3), CONV), ["1"]),
    "weight norm": (lambda: with_(lambda net: parametrizations.weight_norm(net[0])), ["1"]),
    "old weight norm": (lambda: with_(lambda net: nn.utils.weight_norm(net[0])), ["1"]),
    "spectral norm": (lambda: with_(lambda net: nn.utils.spectral_norm(net[0])), ["1"]),
    "pruned": (lambda: with_(lambda net: prune.random_unstructured(net[0], "weight", 0.5)), ["1"]),
    "another forward": (lambda: with_(replaced_forward), ["1"]),
    "two dtypes": (lambda: with_(half_of_it, CONV, RELU, nn.Conv2d(4, 4, 1)), ["1"]),
    "no numbers": (lambda: with_(lambda net: net.to("meta")), ["1"]),
    "integers": (lambda: with_(lambda net: setattr(net[0], "weight", nn.Parameter(net[0].weight.int(), False))), ["1"]),
    "a slash in a name": (lambda: with_(lambda net: net.add_module("a/b", nn.Conv2d(4, 4, 1))), ["a/b"]),
    "the name of an attribute": (lambda: with_(lambda net: net.add_module("taps", nn.Conv2d(4, 4, 1))), ["taps"]),
    "nothing there": (lambda: with_(lambda net: net.add_module("3", None)), ["3"]),
    "nothing at all": (nn.Sequential, ["0"]),
    "weights beyond fp16": (
        lambda: with_(lambda net: net[1].weight.data.fill_(6e4), CONV, norm(4), nn.ReLU()).half(), ["2"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_recognised(case: str) -> None:
    make, layers = REFUSED[case]
    assert recognized(make(), layers) is None


HOOKED: dict[str, Callable[[nn.Module], object]] = {
    "forward": lambda module: module.register_forward_hook(lambda *_: None),
    "before": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "with keywords": lambda module: module.register_forward_hook(lambda *_: None, with_kwargs=True),
    "backward": lambda module: module.register_full_backward_hook(lambda *_: None),
    "before backward": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("place", [0, 2, None])
@pytest.mark.parametrize("hook", HOOKED)
def test_hooks_are_not_recognised(hook: str, place: int | None) -> None:
    """Of any submodule, and of the whole."""
    module = with_(lambda net: HOOKED[hook](net if place is None else net[place]))
    assert recognized(module, ["1"]) is None
    assert recognized(with_(lambda net: None), ["1"]) is not None
    assert len(HOOKS) >= 6


@pytest.mark.usefixtures("library")
def test_what_is_not_recognised_runs_as_the_module_that_it_is() -> None:
    module = with_(lambda net: net.append(nn.LeakyReLU())).double().eval()
    x, y = images(), images(seed=1)
    criterion = po.PerceptualLoss(module, content_layers=["3"])
    torch.testing.assert_close(criterion(x, y), (module(x) - module(y)).square().mean())


@pytest.mark.usefixtures("library")
def test_the_module_stays_as_it_was() -> None:
    """In training mode, with gradients, statistics and in-place ReLU; later changes do not reach the loss."""
    module = copy.deepcopy(sequence(CONV, norm(4), nn.ReLU(inplace=True))).double().train()
    before = copy.deepcopy(module.state_dict())
    criterion = po.PerceptualLoss(module, content_layers=["2"])
    x, y = images(), images(seed=1)
    first = criterion(x, y)
    assert module.training and module[2].inplace and all(one.requires_grad for one in module.parameters())
    assert not any(one.requires_grad for one in criterion._network.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    with torch.no_grad():
        module[0].weight.zero_()
    assert torch.equal(criterion(x, y), first)


@pytest.mark.usefixtures("library")
def test_images_are_taken_as_they_are() -> None:
    """mean and std default to none, as of any module of one's own; grey is repeated."""
    module = with_(lambda net: None).double()
    x, y = images(), images(seed=1)
    found = po.PerceptualLoss(module, content_layers=["1"], mean=[0.5], std=[0.25])
    plain = po.PerceptualLoss(module, content_layers=["1"])
    torch.testing.assert_close(found(x, y), plain((x - 0.5) / 0.25, (y - 0.5) / 0.25))
    torch.testing.assert_close(plain(x[:, :1], y[:, :1]), plain(x[:, :1].expand_as(x), y[:, :1].expand_as(y)))


@pytest.mark.usefixtures("library")
def test_a_folded_convolution_has_no_output_of_its_own() -> None:
    criterion = po.PerceptualLoss(with_(lambda net: None, CONV, norm(4), nn.ReLU()), content_layers=["2"])
    with pytest.raises(ValueError, match=r"content_layers: expected those of Sequential \(1, 2\), got '0'"):
        criterion.content_layers = ["0"]
    criterion.content_layers = ["1"]


@pytest.mark.usefixtures("library", "on_device")
def test_it_copies_moves_and_compiles() -> None:
    module = placed(with_(lambda net: None, sequence(CONV, norm(4)), nn.ReLU(), POOL))
    criterion = po.PerceptualLoss(module, content_layers=["0.1", "2"])
    x, y = images(dtype=torch.float32).requires_grad_(), images(dtype=torch.float32, seed=1)
    loss = criterion(x, y)
    assert torch.equal(copy.deepcopy(criterion)(x, y), loss)
    torch.testing.assert_close(copy.deepcopy(criterion).to(torch.bfloat16)(x, y), loss, rtol=0.05, atol=0)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, y), loss)
    assert "Sequential" in repr(criterion)
