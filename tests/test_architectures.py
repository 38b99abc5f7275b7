"""Architectures that people train with, with random numbers: the lean engine gives autograd's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peer_torchvision import import_torchvision
from test_module_trunk import close, images, value_and_gradients
from torch import nn

import perceptual_ops as po

pytestmark = pytest.mark.usefixtures("library")


def of_torchvision(name: str) -> nn.Module:
    import_torchvision()
    return getattr(pytest.importorskip("torchvision.models"), name)(weights=None)


def convnext() -> nn.Module:
    """With a block or two a stage."""
    import_torchvision()
    convnext = pytest.importorskip("torchvision.models.convnext")
    stages = [convnext.CNBlockConfig(*stage) for stage in ((48, 96, 1), (96, 192, 2), (192, 384, 1), (384, None, 1))]
    return convnext.ConvNeXt(stages, layer_scale=1.0)


def vgg_with_batch_norm() -> nn.Module:
    """The features of vgg11_bn; its classifier has nine tenths of the numbers."""
    import_torchvision()
    vgg = pytest.importorskip("torchvision.models.vgg")
    return vgg.make_layers(vgg.cfgs["A"], batch_norm=True)


def of_timm() -> nn.Module:
    return pytest.importorskip("timm").create_model("vit_tiny_patch16_224", img_size=48, pretrained=False)


def of_transformers() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, image_size=42)
    config.output_hidden_states = True
    return transformers.Dinov2Model(config)


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "ConvNeXt": (
        convnext,
        {"content_layers": ["features.3", "output"]},
    ),
    "ResNet-50": (
        lambda: of_torchvision("resnet50"),
        {"content_layers": ["layer1.1", "fc"], "style_layers": ["layer2"]},
    ),
    "VGG-BN": (vgg_with_batch_norm, {"content_layers": ["6", "13"], "style_layers": ["2"]}),
    "EfficientNet": (lambda: of_torchvision("efficientnet_b0"), {"content_layers": ["features.3", "features.5.0"]}),
    "ViT": (of_timm, {"content_layers": ["blocks.2", "blocks.11"], "drop_tokens": 1, "normalize_features": "channel"}),
    "DINOv2": (
        of_transformers,
        {
            "content_layers": ["hidden_states[2]", "last_hidden_state", "encoder.layer.0"],
            "drop_tokens": 1,
            "content_distance": "cosine",
            "input_size": 42,
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_autograd(name: str) -> None:
    make, settings = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = make().double().eval()
        for module in network.modules():  # statistics as after a training, so that folding them shows
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    x, y = images(2, size=48)[..., :48], images(2, 1, size=48)[..., :48]
    lean, autograd = (
        po.PerceptualLoss(network, **IMAGENET, **settings, reduction="none", chunk_size=1, engine=engine)
        for engine in ("lean", "autograd")
    )
    for loss in (lean, autograd):
        if loss.style_layers:
            loss.set_style(images(1, 5, size=48)[..., :48])
    close(value_and_gradients(lean, x, y), value_and_gradients(autograd, x, y), 1e-9)


def test_vgg_with_batch_norm_is_run_as_a_chain() -> None:
    make, settings = CASES["VGG-BN"]
    assert type(po.PerceptualLoss(make(), **settings)._trunk).__name__ == "Trunk"
