"""Feature losses over modules of other packages as data: image batches, and rival ways to a value and its gradient."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual_ops import LPIPS, PerceptualLoss
from perceptual_ops.networks import IMAGENET_MEAN, IMAGENET_STD
from perceptual_ops.networks.published import PUBLISHED

from . import peers
from .timing import Call
from .whole_case import FP32, Case, Variant, value_and_gradient


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


def ours(chunk: int) -> Variant:
    return Variant(partial(own_loss, chunk_size=chunk), chunk=chunk)


VARIANTS = {
    "eager": Variant(PlainFeatureLoss),
    "lpips": Variant(lambda network: peers.lpips("squeeze"), package="lpips"),
    "autograd": Variant(partial(own_loss, engine="autograd")),
    "memsave": Variant(memsave, package="memsave_torch"),
    **{f"ours, chunk {chunk}": ours(chunk) for chunk in (1, 2, 4, 16)},
}
RIVALS = ("eager", "lpips", "autograd", "memsave")
CHUNKED = tuple(name for name in VARIANTS if name not in RIVALS)
ENDS = (CHUNKED[0], CHUNKED[-1])
EVERY = ("eager", "autograd", "memsave", *CHUNKED)
# Of what takes longer: eager is the same by autograd.
SOME, FEW = ("eager", "memsave", *(f"ours, chunk {chunk}" for chunk in (1, 4, 16))), ("eager", *ENDS)
OF_LPIPS = ("lpips", *ENDS)

# How many samples a convolution is given and how images are normalised decide how it rounds. Through ResNet-50 that
# moves maxima and signs: shares of the gradient up to 7e-3 were seen. Of the same chunks `gradient_error` wants 1e-6.
TOLERANCE = {FP32: (1e-4, 3e-2)}


@dataclass(frozen=True)
class EngineCase(Case):
    """A batch of images and their targets.

    Attributes:
        network: One of `NETWORKS`, or `SQUEEZE`.
    """

    names: tuple[str, ...] = EVERY
    rounds: int = 3
    network: str = "resnet-50"

    variants = VARIANTS
    tolerance = TOLERANCE

    @property
    def name(self) -> str:
        return f"{self.network} {self.size}"

    @property
    def peer(self) -> str:
        return "lpips" if self.network == SQUEEZE else "eager"

    @property
    def package(self) -> str:
        """What must be installed for any of the variants."""
        return NETWORKS[self.network].package if self.network in NETWORKS else ""

    def distinct(self, device_type: str) -> tuple[str, ...]:
        """Without peers that are not installed."""
        if peers.missing(self.package):
            return ()
        return tuple(name for name in super().distinct(device_type) if not peers.missing(VARIANTS[name].package))

    def call(self, name: str, device: torch.device) -> Call:
        output, target = self.images((self.batch, self.batch), torch.contiguous_format, device)
        if self.network == SQUEEZE:
            output, target = 2 * output - 1, 2 * target - 1
        module = VARIANTS[name].build(self.network).to(device)
        return value_and_gradient(lambda output, target: module(output, target).mean(), output, target)


SIZE = (16, 224, 224)
OF_16 = (
    EngineCase(*SIZE, FEW, network="convnext-s"),
    EngineCase(*SIZE, EVERY, network="resnet-50"),
    EngineCase(*SIZE, FEW, network="vgg16-bn"),
    EngineCase(*SIZE, FEW, network="efficientnet-b0"),
    EngineCase(*SIZE, SOME, network="vit-s14"),
    EngineCase(*SIZE, FEW, network="dinov2-s14"),
    EngineCase(*SIZE, OF_LPIPS, network=SQUEEZE),
)
CASES = {"cpu": OF_16, "cuda": OF_16}
