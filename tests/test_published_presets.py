"""Presets over networks of other packages, beside their sources' formulas in plain PyTorch; random weights."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from peer_torchvision import import_torchvision
from placement import placed
from torch import Tensor, nn

from perceptual_ops import PerceptualLoss
from perceptual_ops.losses.presets import PRESETS
from perceptual_ops.networks import IMAGENET_MEAN, IMAGENET_STD
from perceptual_ops.networks.published import PUBLISHED, Published

import_torchvision()
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("on_device")


@pytest.fixture(scope="module", autouse=True)
def networks() -> Iterator[dict[str, nn.Module]]:
    """Each network by name, with one narrow block a stage; of the real ones speaks test_published_networks."""
    models = import_torchvision().models
    stage = importlib.import_module("torchvision.models.convnext").CNBlockConfig
    stages = [stage(24, 48, 1), stage(48, 96, 1), stage(96, 192, 1), stage(192, None, 1)]
    bottleneck = importlib.import_module("torchvision.models.resnet").Bottleneck
    small_config = partial(transformers.Dinov2Config, hidden_size=48, num_attention_heads=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "convnext_small", lambda weights, **settings: models.ConvNeXt(stages, **settings))
        patch.setattr(models, "resnet50", lambda weights: models.ResNet(bottleneck, [1, 1, 1, 1], width_per_group=8))
        patch.setattr(transformers, "Dinov2Config", small_config)
        built = {name: network.build("random") for name, network in PUBLISHED.items()}
        for name, network in PUBLISHED.items():
            build = lambda weights, name=name: copy.deepcopy(built[name])  # noqa: E731
            patch.setitem(PUBLISHED, name, Published(build, network.layer))
        yield built


def images(*shape: int) -> tuple[Tensor, Tensor]:
    """Two batches in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    output, target = (placed(torch.rand(shape, generator=generator, dtype=torch.float64)) for _ in range(2))
    return output, target


def normalized(x: Tensor) -> Tensor:  # (N, 3, H, W) in [0, 1]
    mean, std = (x.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std


def logits_loss(network: nn.Module, output: Tensor, target: Tensor, side: int = 224) -> Tensor:
    """TiTok's and MaskBit's."""
    sides = [
        F.interpolate(x, size=side, mode="bilinear", antialias=True, align_corners=False) for x in (output, target)
    ]
    return F.mse_loss(*(network(normalized(x)) for x in sides))


def dino_perceptual(network: nn.Module, output: Tensor, target: Tensor) -> Tensor:
    states = [network(normalized((x + 1) / 2)).hidden_states for x in (output, target)]
    units = ([x / x.norm(dim=-1, keepdim=True).clamp_min(1e-6) for x in side[1:]] for side in states)
    layers = [(x - y).pow(2).mean(dim=(1, 2)) for x, y in zip(*units, strict=True)]
    return torch.stack(layers).mean(dim=0).mean()


def pixelgen(network: nn.Module, output: Tensor, target: Tensor) -> Tensor:
    """With antialiasing, see the preset."""
    sides = [F.interpolate((x + 1) / 2, (56, 42), mode="bicubic", antialias=True) for x in (output, target)]
    tokens = (network(normalized(x)).last_hidden_state[:, 1:] for x in sides)
    return 1 - F.cosine_similarity(*tokens, dim=-1).mean()


FORMULAS = {
    "titok": (partial(logits_loss, side=64), (2, 3, 80, 48), {"input_size": 64}),  # a 224 takes seconds
    "maskbit": (logits_loss, (1, 3, 240, 200), {}),
    "dino-perceptual": (dino_perceptual, (2, 3, 30, 44), {}),
    "pixelgen": (pixelgen, (2, 3, 64, 48), {"input_size": (56, 42)}),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_presets_are_their_sources_formulas(name: str, networks: dict[str, nn.Module]) -> None:
    formula, shape, overrides = FORMULAS[name]
    loss = placed(PerceptualLoss.preset(name, **overrides).double())  # in fp32 ResNet-50 makes 4e-4 of its rounding
    network = placed(copy.deepcopy(networks[PRESETS[name]["network"]]).double())
    output, target = (2 * x - 1 if loss.input_range[0] else x for x in images(*shape))
    results = []
    for function in (loss, partial(formula, network)):
        leaf = output.clone().requires_grad_()
        value = function(leaf, target)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    (value, gradient), (expected, expected_gradient) = results
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-9 * expected_gradient.abs().max().item())


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_by_name_are_normalised_and_compare_what_they_return(
    name: str, networks: dict[str, nn.Module]
) -> None:
    network = placed(copy.deepcopy(networks[name]).double())

    def returned(x: Tensor) -> Tensor:
        found = network(normalized(x))
        return found if isinstance(found, Tensor) else found.last_hidden_state

    output, target = images(1, 3, 32, 32)
    loss = placed(PerceptualLoss(name).double())
    with torch.no_grad():
        expected = (returned(output) - returned(target)).square().mean()
        torch.testing.assert_close(loss(output, target), expected, rtol=1e-9, atol=0)


def test_names_of_networks_include_published_ones() -> None:
    with pytest.raises(ValueError, match=r"network: expected one of .*'convnext_small', 'resnet50', 'dinov2_base'"):
        PerceptualLoss("resnet51")
