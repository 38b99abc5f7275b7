"""`python -m bench.adaptive_weight`: times the generator's step of examples/drop_in/vae_gan.py with rival LPIPS.

An adaptive weight takes the gradient of the reconstruction loss at one layer before `backward`. See NOTES.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from examples.drop_in.vae_gan import KL_WEIGHT, Autoencoder, PatchDiscriminator, adaptive_weight, generator_loss
from perceptual_ops.compat.taming import LPIPS

from . import peers
from .timing import Call
from .whole_bench import Bench, run
from .whole_case import FP32, Case, Variant
from .whole_report import Outcome

GOAL = 1.7  # times as fast as the package lpips, in fp32 on a CPU
VARIANTS = {
    "lpips": Variant(lambda: peers.lpips("vgg").requires_grad_(False), package="lpips"),
    "plain": Variant(lambda: LPIPS(weights="random", engine="autograd", backend="reference")),
    "ours fp32": Variant(lambda: LPIPS(weights="random"), chunk=None),
}
TOLERANCE = {FP32: (1e-5, 1e-2)}


@dataclass(frozen=True)
class AdaptiveCase(Case):
    """A batch of images to reconstruct.

    Attributes:
        weights: Adaptive weights in a step: 1 as in taming-transformers, the discriminator's, at the decoder's last
            layer; 2 as in LightningDiT, another one at the encoder's last layer (here of the KL divergence).
    """

    names: tuple[str, ...] = tuple(VARIANTS)
    weights: int = 1

    variants = VARIANTS
    tolerance = TOLERANCE
    peer = "lpips"

    @property
    def name(self) -> str:
        return f"{self.weights} adaptive weight{'s' if self.weights > 1 else ''} {self.size}"

    def distinct(self, device_type: str) -> tuple[str, ...]:
        return tuple(name for name in self.names if not peers.missing(self.variants[name].package))

    def call(self, name: str, device: torch.device) -> Call:
        """() -> (loss, its gradient with respect to all parameters of the autoencoder)."""
        torch.manual_seed(0)
        vae, discriminator = Autoencoder().to(device), PatchDiscriminator().to(device).requires_grad_(False)
        perceptual: Any = self.variants[name].build().to(device)
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


SIZES = ((2, 128, 128), (1, 256, 256))
CASES = tuple(AdaptiveCase(*size, weights=weights) for weights in (1, 2) for size in SIZES)


def notes(outcomes: Sequence[Outcome], device_type: str) -> list[str]:
    """Whether the goal is reached, by case; nothing where lpips was not measured."""
    found = []
    for outcome in outcomes:
        if device_type == "cpu" and {"lpips", "ours fp32"} <= outcome.timings.keys():
            speed = outcome.timings["lpips"].median / outcome.timings["ours fp32"].median
            verdict = "reached" if speed >= GOAL else "missed"
            found.append(f"goal {verdict}: {outcome.case.name}: {speed:.2f}x of lpips, {GOAL:g}x are wanted")
    reason = peers.missing("lpips")
    return [*found, reason] if reason else found


def bench() -> Bench:
    cases = {"cpu": CASES, "cuda": CASES}
    description = "The generator's step of a VAE-GAN with adaptive weights."
    rivals = ("lpips", "plain")
    return Bench("bench.adaptive_weight", description, "adaptive-weight", cases, rivals, "of lpips'", notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and returns the exit code: 1 where a case is incorrect."""
    return run(bench(), arguments)


if __name__ == "__main__":
    sys.exit(main())
