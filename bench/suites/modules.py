"""Feature losses over modules of other packages: their value and image gradient, by autograd and chunk by chunk."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_ops import LPIPS, PerceptualLoss
from perceptual_ops.networks import IMAGENET_MEAN, IMAGENET_STD
from perceptual_ops.networks.published import PUBLISHED

from .. import peers
from ..case import FP32, ImageCase, Variant, named, of_size, value_and_gradient
from ..timing import Call
from . import Suite


@dataclass(frozen=True)
class Network:
    """A frozen network with random weights.

    Attributes:
        build: () -> the module: images (N, 3, H, W) -> what holds the features.
        layer: What `PerceptualLoss` calls them.
        package: That builds it.
        features: What the module returns -> the features.
    """

    build: Callable[[], nn.Module]
    layer: str
    package: str
    features: Callable[[Any], Tensor] = lambda returned: returned


def published(name: str) -> nn.Module:
    peers.import_torchvision()
    return PUBLISHED[name].build("random")


def vgg16_bn() -> nn.Module:
    models = peers.import_torchvision().models
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return models.vgg16_bn(weights=None).features


def efficientnet() -> nn.Module:
    """EfficientNet-B0 whose batch norms triple: with weights of 1, as in a new one, its logits vanish."""
    models = peers.import_torchvision().models
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = models.efficientnet_b0(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 3.0)
    return network


def dinov2() -> nn.Module:
    """transformers' DINOv2-S/14; its residual branches as in `VitTokens`."""
    peers.import_torchvision()
    transformers = importlib.import_module("transformers")
    config = transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=224, layerscale_value=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return transformers.Dinov2Model(config)


class VitTokens(nn.Module):
    """timm's ViT-S/14: images (N, 3, H, W) -> what leaves its final LayerNorm, (N, 1 + T, 384)."""

    def __init__(self) -> None:
        super().__init__()
        peers.import_torchvision()
        timm = importlib.import_module("timm")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            # The residual branches of a new DINOv2 are scaled by 1e-5, as if there were none.
            options = {"img_size": 224, "dynamic_img_size": True, "init_values": 1.0, "num_classes": 0}
            self.vit = timm.create_model("vit_small_patch14_dinov2", pretrained=False, **options)

    def forward(self, images: Tensor) -> Tensor:
        return self.vit.forward_features(images)


NETWORKS = {
    "convnext-s": Network(partial(published, "convnext_small"), "output", "torchvision"),
    "resnet-50": Network(partial(published, "resnet50"), "output", "torchvision"),
    "vgg16-bn": Network(vgg16_bn, "output", "torchvision"),
    "efficientnet-b0": Network(efficientnet, "output", "torchvision"),
    "vit-s14": Network(VitTokens, "output", "timm"),
    "dinov2-s14": Network(dinov2, "last_hidden_state", "transformers", lambda returned: returned.last_hidden_state),
}
SQUEEZE = "lpips-squeeze"


class PlainFeatureLoss(nn.Module):
    """The loss as training scripts write it: a frozen module under autograd, the target without a graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: str, convert: Callable[[nn.Module], nn.Module] = lambda module: module) -> None:
        super().__init__()
        self.network = convert(NETWORKS[network].build().eval().requires_grad_(False))
        self.pick = NETWORKS[network].features
        for name, numbers in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(numbers).view(1, 3, 1, 1))

    def features(self, images: Tensor) -> Tensor:  # (N, 3, H, W)
        return self.pick(self.network((images - self.mean) / self.std))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (N, 3, H, W) each
        with torch.no_grad():
            wanted = self.features(target)
        return F.mse_loss(self.features(output), wanted)


def memsave(network: str) -> nn.Module:
    """The same with the layers of Bhatia and Dangel 2024, but for its dropout, which does not run (version 1.0.0)."""
    convert = importlib.import_module("memsave_torch.nn").convert_to_memory_saving
    return PlainFeatureLoss(network, partial(convert, dropout=False))


def own_loss(network: str, **options: Any) -> nn.Module:
    if network == SQUEEZE:
        return LPIPS("squeeze", weights="random", **options)
    found = NETWORKS[network]
    layers = {found.layer: 1.0}
    return PerceptualLoss(found.build(), content_layers=layers, mean=IMAGENET_MEAN, std=IMAGENET_STD, **options)


def ours(chunk: int | None = None) -> Variant:
    who = f"ours, chunk {chunk}" if chunk else "ours"
    return Variant(who, partial(own_loss, chunk_size=chunk), chunk=chunk)


VARIANTS = named(
    Variant("eager", PlainFeatureLoss),
    Variant("lpips", lambda network: peers.lpips("lpips-squeeze"), package="lpips"),
    Variant("autograd", partial(own_loss, engine="autograd")),
    Variant("memsave", memsave, package="memsave_torch"),
    ours(),
    *map(ours, (1, 2, 16)),
)
EAGER = ("eager fp32", "memsave fp32", "ours fp32", "ours, chunk 1 fp32", "ours, chunk 16 fp32")
OF_LPIPS = ("lpips fp32", "ours fp32", "ours, chunk 1 fp32", "ours, chunk 16 fp32")
# How many samples a convolution is given and how images are normalised decide how it rounds. Through ResNet-50 that
# moves maxima and signs: shares of the gradient up to 7e-3 were seen.
TOLERANCE = {FP32: (1e-4, 3e-2)}


@dataclass(frozen=True)
class ModuleCase(ImageCase):
    """A batch of images and their targets.

    Attributes:
        network: One of `NETWORKS`, or `SQUEEZE`.
    """

    network: str = field(kw_only=True)

    variants = VARIANTS
    tolerance = TOLERANCE

    @property
    def name(self) -> str:
        return f"{self.network} {self.size}"

    @property
    def has_small_maps(self) -> bool:
        return True

    @property
    def package(self) -> str:
        """What must be installed for any of the variants."""
        return NETWORKS[self.network].package if self.network in NETWORKS else ""

    def available(self, device_type: str) -> tuple[str, ...]:
        return () if peers.missing(self.package) else super().available(device_type)

    def call(self, name: str, device: torch.device) -> Call:
        output, target = self.images((self.batch, self.batch), torch.contiguous_format, device)
        if self.network == SQUEEZE:
            output, target = 2 * output - 1, 2 * target - 1
        module = VARIANTS[name].build(self.network).to(device)
        return value_and_gradient(lambda output, target: module(output, target).mean(), output, target)


def of(network: str, batch: int, names: tuple[str, ...] = EAGER, **settings: Any) -> ModuleCase:
    return ModuleCase(names, network=network, **of_size(f"{batch}x224x224"), **settings)


CASES = (
    of("resnet-50", 8, quick=True, rounds=3),
    of("convnext-s", 16, rounds=3),
    of("resnet-50", 16, tuple(name for name in VARIANTS if name != "lpips fp32"), rounds=3),
    of("vgg16-bn", 16, rounds=3),
    of("efficientnet-b0", 16, rounds=3),
    of("vit-s14", 16, rounds=3),
    of("dinov2-s14", 16, rounds=3),
    of(SQUEEZE, 16, OF_LPIPS, rounds=3),
)
SUITE = Suite("modules", "Losses over any module", {"cpu": CASES, "cuda": CASES})
