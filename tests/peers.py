"""The libraries that `perceptual_ops.compat` stands in for, on our weights and pictures, and how near we owe to be.

Each peer is imported by `peer(...)`, which skips the calling test or test file where it is not installed.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from maps import LAST_PLACES, relative_error
from peer_torchvision import import_torchvision
from torch import Tensor, nn

from perceptual_ops.losses.base import FrozenLoss
from perceptual_ops.networks.weights import IMAGENET_FILES

Pair = tuple[Tensor, Tensor]

# Modules with torchvision's models under names of their own.
BORROWERS = ("piq.perceptual", "torchmetrics.functional.image.dists")


def peer(name: str) -> ModuleType:
    """A module of a peer; all of them import torchvision."""
    import_torchvision()
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        reason = f"{package} is not installed (pip install --no-deps -r requirements-data.txt)"
        pytest.skip(reason, allow_module_level=True)
    return importlib.import_module(name)


def assert_same_arguments(ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    """The peer's arguments come first, by their names, in their order and with their defaults; ours only by keyword."""
    mine, others = ([*inspect.signature(function).parameters.values()] for function in (ours, theirs))
    others = [parameter for parameter in others if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    own = mine[len(others) :]
    assert all(parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD) for parameter in own)
    for parameter, other in zip(mine, others, strict=False):
        assert parameter.name == other.name
        assert parameter.kind is other.kind
        defaults = [tuple(one) if isinstance(one, list) else one for one in (parameter.default, other.default)]
        assert defaults[0] == defaults[1]


# ---- weights ----


@cache
def features(name: str) -> nn.Sequential:
    """The feature part of a torchvision model, with random weights that keep its maps alive and of one size."""
    models = import_torchvision().models
    with torch.device("meta"):  # the classifier, nine tenths of the numbers, is never made
        network = getattr(models, name)(weights=None).features
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(11)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.1, generator=generator)
    return network.requires_grad_(False)


def state(name: str) -> dict[str, Tensor]:
    """The same, as the state dict of the whole torchvision model calls it."""
    return {f"features.{key}": value for key, value in features(name).state_dict().items()}


@contextmanager
def torchvision_gives(**networks: nn.Module) -> Iterator[None]:
    """torchvision's models by these names have these features; nothing is downloaded."""
    modules = [import_torchvision().models]
    for name in BORROWERS:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            modules.append(importlib.import_module(name))
    with pytest.MonkeyPatch.context() as patch:
        for name, network in networks.items():

            def model(network: nn.Module = network, **_: object) -> SimpleNamespace:
                return SimpleNamespace(features=copy.deepcopy(network))

            for module in modules:
                if hasattr(module, name):
                    patch.setattr(module, name, model)
        yield


# ---- pictures, in [0, 1] ----


@cache
def photograph(name: str) -> Tensor:  # (1, 3, H, W)
    data = pytest.importorskip("skimage.data")
    return torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None].float() / 255


def crop(name: str, height: int, width: int, top: int = 60, left: int = 80) -> Tensor:  # (1, 3, height, width)
    return photograph(name)[:, :, top : top + height, left : left + width].contiguous()


def worse(images: Tensor) -> Tensor:  # (N, 3, H, W)
    """What a network in training might make of them: blurred, paler, with noise."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    blurred = nn.functional.avg_pool2d(nn.functional.pad(images, (2, 2, 2, 2), mode="reflect"), 5, 1)
    return (0.9 * blurred + 0.04 + 0.05 * noise).clamp(0, 1)


@cache
def pairs() -> Mapping[str, Pair]:
    """Pictures and what they are compared with."""
    cat = crop("chelsea", 36, 44)
    batch = torch.cat([crop("astronaut", 36, 40), crop("coffee", 36, 40)])
    odd = crop("astronaut", 45, 59, 20, 170)
    flat = torch.full((1, 3, 36, 36), 0.5)
    tinted = flat * torch.tensor([0.9, 1.1, 1.3]).view(3, 1, 1)
    return {
        "photograph": (worse(cat), cat),
        "batch": (worse(batch), batch),
        "odd size": (worse(odd), odd),
        "flat": (flat, tinted),
        "black": (torch.zeros_like(cat), cat),
    }


# ---- how near ----


@dataclass(frozen=True)
class Difference:
    """Of ours from a peer, each over the largest value.

    Attributes:
        value: Of the values, in fp32; the largest value is each sample's own.
        gradient: Of our gradient in fp32 from the peer's in fp64.
        naive_gradient: The same of the peer's own, the worst of several ways to run it.
        value_fp64, gradient_fp64: Of both in fp64, of the first picture, without ties.
    """

    value: float
    gradient: float
    naive_gradient: float
    value_fp64: float
    gradient_fp64: float

    def check(self) -> None:
        """Values within 1e-5, gradients at most twice as wrong as the peer's worst, 1e-9 in fp64."""
        assert self.value <= 1e-5, self
        assert self.gradient <= 2 * self.naive_gradient + LAST_PLACES[torch.float32] * 2**-23, self
        assert self.value_fp64 <= 1e-9, self
        assert self.gradient_fp64 <= 1e-9, self


# Share of noise in pictures in fp64. In flat ones all pixels tie, and which of them max-pooling takes is a matter of
# rounding: some processors' products in fp64 depend on the place, and layouts differ.
UNTIED = 1e-6


def untied(images: Tensor) -> Tensor:  # (N, 3, H, W), in fp64
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(4))
    return images.double() + UNTIED * noise * (0.4 - images.double())  # inwards: some peers refuse what is out of range


Call = Callable[[Any, Tensor, Tensor], Tensor]
SetInputMap = Callable[[Any, Tensor, Tensor], None]  # peer, center and deviation (1, 3, 1, 1)


def difference(
    ours: nn.Module,
    theirs: nn.Module,
    x: Tensor,
    y: Tensor,
    set_input_map: SetInputMap,
    call: Call = lambda loss, x, y: loss(x, y),
) -> Difference:
    """How far apart a loss and its peer are.

    Args:
        ours, theirs: In fp32, with the same weights.
        x, y: Images (N, 3, H, W).
        set_input_map: Makes the peer's normalisation (images - center) / deviation. In fp64 it is given ours: the
            numbers of peers are rounded to fp32, and some of them to three digits.
        call: How a loss is called.
    """
    double, exact = (_doubled(copy.deepcopy(loss)) for loss in (ours, theirs))
    frozen = next(module for module in double.modules() if isinstance(module, FrozenLoss))
    scale, shift = frozen._kept["input"]
    set_input_map(exact, -shift / scale, 1 / scale)

    with one_thread():
        value, gradient = run(ours, x, y, call)
        their_value, their_gradient = run(theirs, x, y, call)
        naive = [their_gradient, *_naive_gradients(theirs, x, y, call)]
        exact_gradient = run(exact, x.double(), y.double(), call)[1]
        first, first_target = untied(x)[:1], y[:1].double()  # alone: passes in fp64 are the slow ones
        exact_value, untied_gradient = run(exact, first, first_target, call)
        double_value, double_gradient = run(double, first, first_target, call)
    assert value.shape == their_value.shape
    assert value.dtype == their_value.dtype
    assert double_value.dtype == exact_value.dtype == torch.float64
    return Difference(
        _value_difference(value, their_value),
        relative_error(gradient, exact_gradient),
        max(relative_error(one, exact_gradient) for one in naive),
        relative_error(double_value, exact_value),
        relative_error(double_gradient, untied_gradient),
    )


def run(loss: nn.Module, x: Tensor, y: Tensor, call: Call = lambda loss, x, y: loss(x, y)) -> Pair:
    """The value, and the gradient with respect to x with a weight of its own for each entry."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = call(loss, x, y)
    upstream = 1 + 0.5 * torch.arange(value.numel(), dtype=value.dtype).view(value.shape) / value.numel()
    (gradient,) = torch.autograd.grad(value, x, upstream)
    return value.detach(), gradient


def _value_difference(ours: Tensor, theirs: Tensor) -> float:  # () or (N, ...)
    ours, theirs = (value.reshape(*(value.shape[:1] or [1]), -1) for value in (ours, theirs))
    return ((ours - theirs).abs().amax(1) / theirs.abs().amax(1).clamp_min(1e-30)).max().item()


def _naive_gradients(loss: nn.Module, x: Tensor, y: Tensor, call: Call) -> Iterator[Tensor]:
    """A peer's gradients in fp32 with our layout, of the images and of the same images off by their rounding.

    One run does not tell how wrong a gradient in fp32 is: of 1.5 million inputs of DISTS's ReLUs some are smaller than
    the rounding of their maps, and so is one under a root of its pooling in "odd size" (6.7e-7, where sqrt(x^2 + 1e-12)
    bends). What they pass on is a matter of luck, the peer's as well as ours.
    """
    for divisor in (1, 3, 5, 7):
        images = (z.div(divisor).mul(divisor).contiguous(memory_format=torch.channels_last) for z in (x, y))
        yield run(loss, *images, call)[1]


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _doubled(module: nn.Module) -> nn.Module:
    # A torchmetrics.Metric does nothing on .double().
    return module.set_dtype(torch.float64) if hasattr(module, "set_dtype") else module.double()


def assert_frozen(loss: nn.Module) -> None:
    """Nothing that trains, for a checkpoint or to write to the caller's images; `.train()` changes nothing."""
    assert not list(loss.parameters())
    assert not list(loss.buffers())
    assert not loss.state_dict()
    x, y = pairs()["photograph"]
    with torch.no_grad():
        before, kept = loss(x, y), (x.clone(), y.clone())
        assert_equal(loss.train()(x, y), before)
        assert_equal(copy.deepcopy(loss)(x, y), before)
    assert_equal((x, y), kept)


def assert_equal(actual: Any, expected: Any) -> None:
    """A tensor, or a tuple or list of them and of None, to the last bit."""
    if isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_equal(one, other)
    else:
        assert actual is expected or actual.equal(expected)


@contextmanager
def hub_cache(folder: Any, **files: str) -> Iterator[None]:
    """A torch hub cache that holds `state(name)` of each name as the file called so, and ours by its own hash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "_hub_dir", None)
        patch.setenv("TORCH_HOME", str(folder))
        checkpoints = folder / "hub" / "checkpoints"
        checkpoints.mkdir(parents=True)
        for name, file in files.items():
            path = checkpoints / file
            torch.save(state(name), path)
            ours = f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
            (checkpoints / ours).hardlink_to(path)
            patch.setitem(IMAGENET_FILES, name, ours)
        yield


def exact_dists_numbers() -> dict[str, Tensor]:
    """Random alpha and beta (1, 1475, 1, 1) for DISTS, of sum 1 to the last bit: dividing by it changes nothing."""
    counts = torch.randint(0, 700, (2950,), generator=torch.Generator().manual_seed(2))
    counts[0] += 2**20 - counts.sum()
    alpha, beta = (counts.float() / 2**20).view(2, 1, -1, 1, 1)
    return {"alpha": alpha, "beta": beta}
