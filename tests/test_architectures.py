"""Architectures that people train with, with random numbers: the engine gives the numbers of plain calls and formulas.

Nothing of the library is in what is expected, or a fault of both engines would go unseen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peer_torchvision import import_torchvision
from placement import placed
from test_module_trunk import close, images, value_and_gradients
from torch import Tensor, nn

import perceptual_ops as po

import_torchvision()  # before timm and transformers, which import it
pytestmark = pytest.mark.usefixtures("library", "on_device")


def of_torchvision(name: str) -> nn.Module:
    return getattr(pytest.importorskip("torchvision.models"), name)(weights=None)


def convnext() -> nn.Module:
    """With a block or two a stage."""
    convnext = pytest.importorskip("torchvision.models.convnext")
    stages = [convnext.CNBlockConfig(*stage) for stage in ((48, 96, 1), (96, 192, 2), (192, 384, 1), (384, None, 1))]
    return convnext.ConvNeXt(stages, layer_scale=1.0)


def vgg_with_batch_norm() -> nn.Module:
    """The features of vgg11_bn; its classifier has nine tenths of the numbers."""
    vgg = pytest.importorskip("torchvision.models.vgg")
    return vgg.make_layers(vgg.cfgs["A"], batch_norm=True)


def of_timm() -> nn.Module:
    return pytest.importorskip("timm").create_model("vit_tiny_patch16_224", img_size=48, pretrained=False)


def of_transformers() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, image_size=42)
    config.output_hidden_states = True
    return transformers.Dinov2Model(config)


# ---- plain calls: the features of normalised images, by hand ----


def features_of_resnet(network: Any, x: Tensor) -> dict[str, Tensor]:
    stem = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    return {
        "layer1.1": network.layer1[1](network.layer1[0](stem)),
        "layer2": network.layer2(network.layer1(stem)),
        "fc": network(x),
    }


def features_of_vit(network: Any, x: Tensor) -> dict[str, Tensor]:
    """Tokens behind the class token."""
    x, found = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(x)))), {}
    for number, block in enumerate(network.blocks):
        x = block(x)
        found[f"blocks.{number}"] = x[:, 1:]
    return found


def features_of_dino(network: Any, x: Tensor) -> dict[str, Tensor]:
    """Tokens behind the class token."""
    x = F.interpolate(x, (42, 42), mode="bilinear", antialias=True)
    states = [network.embeddings(x)]
    for block in network.encoder.layer:
        states.append(block(states[-1]))
    found = {"hidden_states[2]": states[2], "encoder.layer.0": states[1]}
    found["last_hidden_state"] = network.layernorm(states[-1])
    return {layer: tokens[:, 1:] for layer, tokens in found.items()}


# ---- plain formulas, a number for each sample ----


def channels_last(x: Tensor) -> Tensor:  # maps, tokens or vectors -> (N, pixels, C)
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x.flatten(1, -2) if x.dim() == 3 else x[:, None]


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).pow(2).flatten(1).mean(1)


def squared_error_of_units(x: Tensor, y: Tensor) -> Tensor:
    return squared_error(*(z / (z.norm(dim=-1, keepdim=True) + 1e-10) for z in map(channels_last, (x, y))))


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(channels_last(x), channels_last(y), dim=-1).mean(1)


def gram(x: Tensor) -> Tensor:
    return torch.einsum("nchw,ndhw->ncd", x, x) / x[0].numel()


@dataclass
class Case:
    """An architecture and a loss over it.

    Attributes:
        make: The network.
        features: (network, normalised images) -> features by layer.
        content: Of two features, a number for each sample.
        settings: Of the loss.
    """

    make: Callable[[], nn.Module]
    features: Callable[[Any, Tensor], dict[str, Tensor]]
    settings: dict[str, Any]
    content: Callable[[Tensor, Tensor], Tensor] = squared_error


CASES = {
    "ConvNeXt": Case(
        convnext,
        lambda network, x: {"features.3": network.features[:4](x), "output": network(x)},
        {"content_layers": ["features.3", "output"]},
    ),
    "ResNet-50": Case(
        lambda: of_torchvision("resnet50"),
        features_of_resnet,
        {"content_layers": ["layer1.1", "fc"], "style_layers": ["layer2"]},
    ),
    "VGG-BN": Case(
        vgg_with_batch_norm,
        lambda network, x: {name: network[: int(name) + 1](x) for name in ("2", "6", "13")},
        {"content_layers": ["6", "13"], "style_layers": ["2"]},
    ),
    "EfficientNet": Case(
        lambda: of_torchvision("efficientnet_b0"),
        lambda network, x: {
            "features.3": network.features[:4](x),
            "features.5.0": network.features[5][0](network.features[:5](x)),
        },
        {"content_layers": ["features.3", "features.5.0"]},
    ),
    "ViT": Case(
        of_timm,
        features_of_vit,
        {"content_layers": ["blocks.2", "blocks.11"], "drop_tokens": 1, "normalize_features": "channel"},
        squared_error_of_units,
    ),
    "DINOv2": Case(
        of_transformers,
        features_of_dino,
        {
            "content_layers": ["hidden_states[2]", "last_hidden_state", "encoder.layer.0"],
            "drop_tokens": 1,
            "content_distance": "cosine",
            "input_size": 42,
        },
        cosine,
    ),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_plain_calls(name: str) -> None:
    case = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = case.make().double().eval()
        for module in network.modules():  # statistics as after a training, so that folding them shows
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    plain = placed(copy.deepcopy(network).requires_grad_(False))
    x, y, style = (images(batch, seed, size=48)[..., :48] for batch, seed in ((2, 0), (2, 1), (1, 5)))
    mean, std = (x.new_tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))

    def expected(x: Tensor, y: Tensor) -> Tensor:
        of_x, of_y, of_style = (case.features(plain, (z - mean) / std) for z in (x, y, style))
        content = [case.content(of_x[layer], of_y[layer]) for layer in case.settings["content_layers"]]
        styles = case.settings.get("style_layers", [])
        return sum(content) + sum((gram(of_x[z]) - gram(of_style[z])).pow(2).mean((1, 2)) for z in styles)

    by_hand = value_and_gradients(expected, x, y)
    for engine in ("lean", "autograd"):
        settings = {**case.settings, "reduction": "none", "chunk_size": 1, "engine": engine}
        loss = placed(po.PerceptualLoss(network, mean=MEAN, std=STD, **settings))
        if loss.style_layers:
            loss.set_style(style)
        close(value_and_gradients(loss, x, y), by_hand, 1e-9)


def test_vgg_with_batch_norm_is_run_as_a_chain() -> None:
    case = CASES["VGG-BN"]
    assert "(chain)" in repr(po.PerceptualLoss(case.make(), **case.settings))
