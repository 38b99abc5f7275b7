"""The generator's step of examples/drop_in/vae_gan.py: an adaptive weight takes a gradient before `backward`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from examples.drop_in.vae_gan import KL_WEIGHT, Autoencoder, PatchDiscriminator, adaptive_weight, generator_loss
from perceptual_ops.compat.taming import LPIPS

from .. import peers
from ..case import FP32, ImageCase, Variant, named, of_size
from ..timing import Call
from . import Suite

VARIANTS = named(
    Variant("lpips", lambda: peers.lpips("lpips-vgg").requires_grad_(False), package="lpips"),
    Variant("autograd", partial(LPIPS, weights="random", engine="autograd", backend="reference")),
    Variant("ours", partial(LPIPS, weights="random"), chunk=None),
)
TOLERANCE = {FP32: (1e-5, 1e-2)}


@dataclass(frozen=True)
class AdaptiveCase(ImageCase):
    """A batch of images to reconstruct.

    Attributes:
        weights: Adaptive weights in a step: 1 as in taming-transformers, the discriminator's, at the decoder's last
            layer; 2 as in LightningDiT, another one at the encoder's last layer (here of the KL divergence).
    """

    weights: int = field(default=1, kw_only=True)

    variants = VARIANTS
    tolerance = TOLERANCE

    @property
    def name(self) -> str:
        return f"{self.weights} weight{'s' if self.weights > 1 else ''} {self.size}"

    def call(self, name: str, device: torch.device) -> Call:
        """() -> (loss, its gradient with respect to all parameters of the autoencoder)."""
        torch.manual_seed(0)
        vae, discriminator = Autoencoder().to(device), PatchDiscriminator().to(device).requires_grad_(False)
        perceptual: Any = self.variant(name).build().to(device)
        (images,) = self.images((self.batch,), torch.contiguous_format, device)
        parameters = list(vae.parameters())

        def step() -> tuple[Tensor, Tensor]:
            torch.manual_seed(0)  # the code's noise
            loss, _, parts = generator_loss(vae, discriminator, perceptual, 2 * images - 1, factor=1.0)
            if self.weights > 1:
                nll = parts["l1"] + parts["lpips"]
                weight = adaptive_weight(nll, parts["kl"], vae.encoder[-1].weight)
                loss = loss + KL_WEIGHT * weight * parts["kl"]
            gradients = torch.autograd.grad(loss, parameters)
            return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])

        return step


CASES = tuple(
    AdaptiveCase(tuple(VARIANTS), weights=weights, quick=quick, **of_size(size))
    for size, quick in (("2x128x128", True), ("1x256x256", False))
    for weights in (1, 2)
)
SUITE = Suite("adaptive", "Generator's step with adaptive weights", {"cpu": CASES, "cuda": CASES})
