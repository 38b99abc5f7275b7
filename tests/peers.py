"""The libraries that `perceptual_ops.compat` stands in for, on our weights and pictures, and how near we owe to be.

Each peer is imported by `peer(...)`, which skips the calling test where it is not installed.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import ModuleType, SimpleNamespace

import pytest
import torch
from maps import LAST_PLACES, relative_error
from peer_torchvision import import_torchvision
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]

# Where each peer looks a torchvision model up: some by module, some under a name of their own.
BORROWERS = ("piq.perceptual", "torchmetrics.functional.image.dists")


def peer(name: str) -> ModuleType:
    """A module of a peer; all of them import torchvision."""
    import_torchvision()
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install --no-deps -r requirements-data.txt)")
    return importlib.import_module(name)


# ---- weights ----


@cache
def features(name: str) -> nn.Sequential:
    """The feature part of a torchvision model with random weights and biases that keep its maps alive and alike."""
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
    """The same as a state dict of the whole torchvision model would call it."""
    return {f"features.{key}": value for key, value in features(name).state_dict().items()}


@contextmanager
def torchvision_gives(*names: str) -> Iterator[None]:
    """torchvision's models by these names have the weights of `features`; nothing is downloaded.

    The classifiers, nine tenths of the files that the peers would load, are left out.
    """
    torchvision = import_torchvision()
    modules = [torchvision.models]
    for name in BORROWERS:
        package = name.partition(".")[0]
        if importlib.util.find_spec(package) is not None:
            modules.append(importlib.import_module(name))
    made = {name: features(name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        for name, network in made.items():

            def model(network: nn.Module = network, **_: object) -> SimpleNamespace:
                return SimpleNamespace(features=copy.deepcopy(network))

            for module in modules:
                if hasattr(module, name):
                    patch.setattr(module, name, model)
        yield


# ---- pictures ----


@cache
def photograph(name: str) -> Tensor:  # (1, 3, H, W) in [0, 1]
    data = pytest.importorskip("skimage.data")
    return torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None].float() / 255


def crop(name: str, height: int, width: int, top: int = 60, left: int = 80) -> Tensor:
    return photograph(name)[:, :, top : top + height, left : left + width].contiguous()


def worse(images: Tensor) -> Tensor:
    """What a network in training might make of them: blurred, shifted in colour, with noise, in [0, 1]."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    blurred = nn.functional.avg_pool2d(nn.functional.pad(images, (2, 2, 2, 2), mode="reflect"), 5, 1)
    return (0.9 * blurred + 0.04 + 0.05 * noise).clamp(0, 1)


@cache
def pairs() -> Mapping[str, Pair]:
    """Pictures in [0, 1] and what they are compared with."""
    cat = crop("chelsea", 64, 80)
    batch = torch.cat([crop(name, 64, 64) for name in ("astronaut", "chelsea", "coffee")])
    odd = crop("astronaut", 67, 93, 20, 170)
    flat = torch.full((1, 3, 64, 64), 0.5)
    return {
        "photograph": (worse(cat), cat),
        "batch of 3": (worse(batch), batch),
        "odd size": (worse(odd), odd),
        "flat": (flat, flat.roll(1, 1) * torch.tensor([0.9, 1.1, 1.3]).view(3, 1, 1)),
        "black": (torch.zeros_like(cat), cat),
        "the same": (cat, cat),
    }


# ---- how near ----


def run(loss: Loss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the gradient by x of its sum with weights that differ from sample to sample."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(x, y)
    upstream = 1 + 0.5 * torch.arange(value.numel(), dtype=value.dtype).view(value.shape)
    (gradient,) = torch.autograd.grad(value, x, upstream)
    return value.detach(), gradient


def naive_gradients(loss: Loss, x: Tensor, y: Tensor) -> list[Tensor]:
    """A peer's gradients in fp32 as it might be run: in both layouts, on one thread and on two."""
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for layout in (torch.contiguous_format, torch.channels_last):
                found.append(run(loss, x.contiguous(memory_format=layout), y.contiguous(memory_format=layout))[1])
    finally:
        torch.set_num_threads(threads)
    return found


def differences(ours: Loss, theirs: Loss, exact: Loss, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Of the values, relative; of our gradient from the exact one, and of the peer's worst.

    Args:
        ours, theirs: Losses in fp32.
        exact: The peer in fp64.
        x, y: Pictures.
    """
    value, gradient = run(ours, x, y)
    their_value, _ = run(theirs, x, y)
    _, exact_gradient = run(exact, x.double(), y.double())
    assert value.shape == their_value.shape
    assert value.dtype == their_value.dtype
    worst = max(relative_error(naive, exact_gradient) for naive in naive_gradients(theirs, x, y))
    gap = ((value - their_value).abs() / their_value.abs().clamp_min(1e-30)).max().item()
    return gap if not value.equal(their_value) else 0.0, relative_error(gradient, exact_gradient), worst


def assert_same(ours: Loss, theirs: Loss, exact: Loss, x: Tensor, y: Tensor, floor: float = 0.0) -> None:
    """Values within 1e-5, gradients at most twice as wrong as the peer's worst.

    Args:
        floor: How far from 0 the peer's own value may be where 0 is right; 0 for one that is then 0 itself.
    """
    value, gradient = run(ours, x, y)
    their_value, _ = run(theirs, x, y)
    assert value.shape == their_value.shape
    assert value.dtype == their_value.dtype
    torch.testing.assert_close(value, their_value, rtol=1e-5, atol=floor)
    _, exact_gradient = run(exact, x.double(), y.double())
    worst = max(relative_error(naive, exact_gradient) for naive in naive_gradients(theirs, x, y))
    allowed = 2 * worst + LAST_PLACES[torch.float32] * torch.finfo(torch.float32).eps
    error = relative_error(gradient, exact_gradient)
    assert error <= allowed, f"gradient: error {error:.3g}, allowed {allowed:.3g}"


def assert_same_in_fp64(ours: Loss, theirs: Loss, x: Tensor, y: Tensor) -> None:
    """Both in fp64: 1e-9 of the largest value and gradient."""
    for mine, other in zip(run(ours, x.double(), y.double()), run(theirs, x.double(), y.double()), strict=True):
        assert mine.dtype == other.dtype == torch.float64
        assert relative_error(mine, other) <= 1e-9
