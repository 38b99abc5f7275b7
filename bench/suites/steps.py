"""Whole steps of training, network, losses and optimiser: what share of them a perceptual loss takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.drop_in.vae_gan import Autoencoder, PatchDiscriminator, generator_loss, hinge_loss
from perceptual_ops import PerceptualLoss
from perceptual_ops.compat.taming import LPIPS
from perceptual_ops.recipes.transform_net import SuperResolutionNet

from .. import peers
from ..case import BF16, FP32, NHWC, Case, ImageCase, Variant, named, of_size
from ..plain import PlainFeatureLoss
from ..timing import Call
from . import Suite

SCALE = 4
WITHOUT = "without the loss"


class NoLoss(nn.Module):
    """0: what is left of a step is all but the perceptual loss."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (N, 3, H, W) each
        return output.new_zeros(())


def frozen_lpips(layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    return peers.lpips("lpips-vgg", layout).requires_grad_(False)


def sr_step(perceptual: Callable[[Tensor, Tensor], Tensor], target: Tensor) -> Call:  # (N, 3, H, W)
    """A step of super-resolution x4: L1 and a perceptual loss, as SRGAN's generator without its discriminator."""
    network = SuperResolutionNet(SCALE).to(target.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    small = F.avg_pool2d(target, SCALE)

    def step() -> tuple[Tensor, Tensor]:
        output = network(small)
        loss = F.l1_loss(output, target) + perceptual(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach(), gradients_of(network)

    return step


def vae_step(perceptual: Any, images: Tensor) -> Call:  # (N, 3, H, W)
    """A step of a KL-VAE and its discriminator, see examples/drop_in/vae_gan.py."""
    vae, discriminator = Autoencoder().to(images.device), PatchDiscriminator().to(images.device)
    optimizer, other = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.9, 0.99)) for net in (vae, discriminator))
    images = 2 * images - 1

    def step() -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)  # the code's noise
        discriminator.requires_grad_(False)
        loss, output, _ = generator_loss(vae, discriminator, perceptual, images, factor=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        discriminator.requires_grad_(True)
        other.zero_grad()
        hinge_loss(discriminator, images, output.detach()).backward()
        other.step()
        return loss.detach(), gradients_of(vae)

    return step


def gradients_of(network: nn.Module) -> Tensor:
    return torch.cat([x.grad.flatten() for x in network.parameters() if x.grad is not None])


without = Variant(WITHOUT, NoLoss, is_same=False)
srgan = partial(PerceptualLoss.preset, "srgan", weights="random")
SR = named(
    Variant("eager", PlainFeatureLoss),
    Variant("channels_last", partial(PlainFeatureLoss, NHWC)),
    Variant("compiled", partial(PlainFeatureLoss, NHWC), compiled=True),
    Variant("compiled", partial(PlainFeatureLoss, NHWC), BF16, compiled=True),
    without,
    Variant("ours", srgan, chunk=None),
    Variant("ours", partial(srgan, compute_dtype=BF16), BF16, chunk=None),
)
VAE = named(
    Variant("lpips", frozen_lpips, package="lpips"),
    Variant("channels_last", partial(frozen_lpips, NHWC), package="lpips"),
    # Not compiled: what torch.compile makes of a backward runs once, and an adaptive weight runs it twice.
    Variant("channels_last", partial(frozen_lpips, NHWC), BF16, package="lpips"),
    without,
    Variant("ours", partial(LPIPS, weights="random"), chunk=None),
    Variant("ours", partial(LPIPS, weights="random", compute_dtype=BF16), BF16, chunk=None),
)
# Gradients of the network: those of a step are summed over many pixels, so that their rounding is less.
TOLERANCE = {FP32: (1e-4, 2e-2), BF16: (0.02, 0.25)}


@dataclass(frozen=True)
class StepCase(ImageCase):
    """A batch of images to restore; the network of every variant begins with the same numbers.

    Attributes:
        network: "sr" or "kl-vae".
    """

    network: str = field(kw_only=True)

    tolerance = TOLERANCE

    @property
    def name(self) -> str:
        return f"{self.network} {self.size}"

    def variant(self, name: str) -> Variant:
        return (SR if self.network == "sr" else VAE)[name]

    def available(self, device_type: str) -> tuple[str, ...]:
        return Case.available(self, device_type)

    def call(self, name: str, device: torch.device) -> Call:
        variant = self.variant(name)
        perceptual = variant.applied(variant.build().to(device))
        (images,) = self.images((self.batch,), torch.contiguous_format, device)
        torch.manual_seed(0)
        return (sr_step if self.network == "sr" else vae_step)(perceptual, images)


def of(network: str, size: str, **settings: Any) -> StepCase:
    return StepCase(tuple(SR if network == "sr" else VAE), network=network, **of_size(size), **settings)


CASES = (
    of("sr", "4x128x128", quick=True),
    of("kl-vae", "2x128x128", quick=True),
    of("sr", "8x192x192", rounds=3),
    of("kl-vae", "4x256x256", rounds=3),
)
SUITE = Suite("steps", "Steps of training", {"cpu": CASES, "cuda": CASES})
